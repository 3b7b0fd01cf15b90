"""Episodes from a prepared image table."""

from typing import Annotated

import torch
from torch import Tensor

from fewshot.data.row_source import RowSource
from fewshot.data.table import Table
from fewshot.episodes import Task
from fewshot.options import Seed, Validated, Ways


class ImageSource(Validated, RowSource):
    """Tasks of `ways` classes from `table`, whose uint8 images move to the device once.

    `train_ways` is the number of classes in training, for learners without an output per class.
    """

    def __init__(
        self,
        seed: Seed,
        table: Table,
        ways: Annotated[Ways, "classes of a task"] = 5,
        train_ways: Annotated[Ways | None, "classes of a training task; null: the same"] = None,
    ) -> None:
        height, width, channels = table.rows.shape[1:]
        super().__init__(seed, table, Task((channels, height, width), ways, False, train_ways))

    def examples(self, index_BM: Tensor) -> Tensor:
        """Pixels in [0, 1], (B, M, C, H, W)."""
        pixels = self.rows[index_BM].to(torch.get_default_dtype()) / 255
        # the table is channels-last in memory; permuting keeps it so, which convolutions on a CPU like
        return pixels.permute(0, 1, 4, 2, 3)
