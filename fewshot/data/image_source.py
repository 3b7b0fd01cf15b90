"""Episodes from a prepared image table: indices drawn on the CPU, images gathered on the training device."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.episodes import Episode, draw_images

if TYPE_CHECKING:
    from fewshot.data.table import Table


@dataclass
class ImageSource:
    """Tasks of `ways` classes from `table`, whose uint8 images move to the device once."""

    seed: int
    table: "Table"
    ways: int
    regression: bool = False

    def __post_init__(self) -> None:
        height, width, channels = self.table.images.shape[1:]
        self.input_shape: tuple[int, ...] = (channels, height, width)
        self.outputs = self.ways
        self.note = self.table.note
        self.images = torch.from_numpy(self.table.images)

    def classes(self) -> dict[str, list[tuple[str, int]]]:
        """Name and number of images of every class, by split."""
        splits = self.table.splits
        return {split: list(zip(c.names, c.counts.tolist(), strict=True)) for split, c in splits.items()}

    def draw(self, split: str, tasks: NDArray[np.int64], shots: int, queries: int) -> dict[str, Tensor]:
        """Row numbers of some tasks' images, (B, ways, shots + queries), and their task numbers (B,)."""
        classes = self.table.splits[split]
        index = draw_images(self.seed, split, tasks, classes.starts, classes.counts, self.ways, shots + queries)
        return {"index": torch.from_numpy(index), "tasks": torch.from_numpy(tasks)}

    def episode(self, drawn: dict[str, Tensor], shots: int) -> Episode:
        """The Episode of what `draw` drew: pixels in [0, 1], x (B, M, C, H, W), labels by class order."""
        index = drawn["index"]
        if self.images.device != index.device:
            self.images = self.images.to(index.device)
        support_x, support_y = self._gather(index[:, :, :shots])
        query_x, query_y = self._gather(index[:, :, shots:])
        return Episode(support_x, support_y, query_x, query_y, drawn["tasks"])

    def _gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        tasks, ways, examples = index.shape
        pixels = self.images[index.flatten(1)].to(torch.get_default_dtype()) / 255
        labels = torch.arange(ways, device=index.device).repeat_interleave(examples)
        # the table is channels-last in memory; permuting keeps it so, which convolutions on a CPU like
        return pixels.permute(0, 1, 4, 2, 3), labels.expand(tasks, -1)
