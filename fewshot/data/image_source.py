"""Episodes from a prepared image table: indices drawn on the CPU, images gathered on the training device."""

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.data.table import Table
from fewshot.episodes import Episode, Task, draw_images, draw_order
from fewshot.errors import UserError
from fewshot.options import Seed, Ways, checked


class ImageSource:
    """Tasks of `ways` classes from `table`, whose uint8 images move to the device once.

    `train_ways` is the number of classes in training, for learners without an output per class.
    """

    @checked
    def __init__(
        self,
        seed: Seed,
        table: Table,
        ways: Annotated[Ways, "classes of a task"] = 5,
        train_ways: Annotated[Ways | None, "classes of a training task; null: the same"] = None,
    ) -> None:
        self.seed, self.table, self.ways, self.note = seed, table, ways, table.note
        self.train_ways = train_ways or ways
        height, width, channels = table.images.shape[1:]
        self.task = Task((channels, height, width), ways, regression=False, train_outputs=train_ways)
        self.images = torch.from_numpy(table.images)

    def ways_of(self, split: str) -> int:
        return self.train_ways if split == "train" else self.ways

    def check(self, split: str, shots: int, queries: int) -> None:
        """UserError where a split has too few classes for a task, or a class too few images."""
        classes = self.table.splits[split]
        if (ways := self.ways_of(split)) > len(classes.names):
            name = "data.ways" if ways == self.ways else "data.train_ways"
            raise UserError(f"{name}={ways} is more than the {len(classes.names)} {split} classes")
        smallest = int(classes.counts.argmin())
        count = int(classes.counts[smallest])
        if shots + queries > count:
            asked = f"{'data.train_shots' if split == 'train' else 'shots'}={shots} + data.{split}_queries={queries}"
            raise UserError(
                f"{asked} is more than the {count} images of the {split} class {classes.names[smallest]}: "
                f"ask for at most {count} in all"
            )

    def classes(self) -> dict[str, list[tuple[str, int]]]:
        """Name and number of images of every class, by split."""
        splits = self.table.splits
        return {split: list(zip(c.names, c.counts.tolist(), strict=True)) for split, c in splits.items()}

    def class_names(self, split: str, tasks: NDArray[np.int64]) -> list[list[str]]:
        """The classes of some tasks, by label."""
        classes = self.table.splits[split]
        ways = self.ways_of(split)
        rows_BN = draw_images(self.seed, split, tasks, classes.starts, classes.counts, ways, 1)[..., 0]
        numbers_BN = np.searchsorted(classes.starts, rows_BN, side="right") - 1
        return [[classes.names[number] for number in row] for row in numbers_BN]

    def draw(self, split: str, tasks: NDArray[np.int64], shots: int, queries: int) -> dict[str, Tensor]:
        """Row numbers of some tasks' images, (B, ways, shots + queries), by label; the order in which the support set
        shows the labels, (B, ways); and the task numbers (B,)."""
        classes, ways = self.table.splits[split], self.ways_of(split)
        index = draw_images(self.seed, split, tasks, classes.starts, classes.counts, ways, shots + queries)
        order = draw_order(self.seed, split, tasks, ways)
        drawn = {"index": index, "order": order, "tasks": tasks}
        return {name: torch.from_numpy(values) for name, values in drawn.items()}

    def episode(self, drawn: dict[str, Tensor], shots: int) -> Episode:
        """The Episode of what `draw` drew: pixels in [0, 1], x (B, M, C, H, W); the queries in the order of labels."""
        index, order = drawn["index"], drawn["order"]
        if self.images.device != index.device:
            self.images = self.images.to(index.device)
        shown = index[:, :, :shots].take_along_dim(order.unsqueeze(-1), 1)
        support_x, support_y = self._gather(shown, order)
        query_x, query_y = self._gather(index[:, :, shots:], order.sort(1).values)
        return Episode(support_x, support_y, query_x, query_y, drawn["tasks"])

    def _gather(self, index_BNE: Tensor, labels_BN: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.images[index_BNE.flatten(1)].to(torch.get_default_dtype()) / 255
        # the table is channels-last in memory; permuting keeps it so, which convolutions on a CPU like
        return pixels.permute(0, 1, 4, 2, 3), labels_BN.repeat_interleave(index_BNE.shape[2], 1)
