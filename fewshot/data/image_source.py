"""Episodes from a prepared image table: indices drawn on the CPU, images gathered on the training device."""

import sys
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from fewshot.data.datamodule import Source
from fewshot.data.table import Table
from fewshot.episodes import Episode, Task, draw_images, draw_order
from fewshot.errors import UserError
from fewshot.options import Seed, Validated, Ways


class ImageSource(Validated, Source):
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
        self.seed, self.table = seed, table
        self.ways = {"train": train_ways or ways, "val": ways, "test": ways}
        height, width, channels = table.images.shape[1:]
        self.task = Task((channels, height, width), ways, regression=False, train_outputs=train_ways)
        self.images = torch.from_numpy(table.images)
        self.drawn = table.splits  # the classes that tasks are drawn from
        self.left_out: dict[str, list[str]] = {}  # by split those with too few images for the tasks asked for

    def check(self, split: str, shots: int, queries: int) -> None:
        """Leave out, and print, a split's classes with too few images; UserError if too few are left."""
        classes, ways = self.table.splits[split], self.ways[split]
        kept = {name: rows for name, rows in classes.items() if len(rows) >= shots + queries}
        asked = f"{shots + queries} images (shots={shots} + data.{split}_queries={queries})"
        if ways > len(kept):
            raise UserError(f"{ways} ways are more than the {len(kept)} {split} classes with {asked}")
        few = [name for name in classes if name not in kept]
        if few and few != self.left_out.get(split):
            said = f"{len(few)} of {len(classes)} {split} classes have fewer than {asked} and are left out"
            print(f"{said}, as {few[0]}", file=sys.stderr)
        self.drawn, self.left_out = self.drawn | {split: kept}, self.left_out | {split: few}

    def classes(self) -> dict[str, list[tuple[str, int]]]:
        """Name and number of images of every class, by split."""
        splits = self.table.splits.items()
        return {split: [(name, len(rows)) for name, rows in classes.items()] for split, classes in splits}

    def class_names(self, split: str, tasks: np.ndarray) -> list[list[str]]:
        name_of = {row: name for name, rows in self.drawn[split].items() for row in rows}
        return [[name_of[row] for row in rows] for rows in self._rows(split, tasks, 1)[..., 0].tolist()]

    def _rows(self, split: str, tasks: np.ndarray, examples: int) -> np.ndarray:
        rows = self.drawn[split].values()
        starts, counts = np.array([r.start for r in rows]), np.array([len(r) for r in rows])
        return draw_images(self.seed, split, tasks, starts, counts, self.ways[split], examples)

    def draw(self, split: str, tasks: np.ndarray, shots: int, queries: int) -> tuple[Tensor, ...]:
        """Rows of images by label (B, ways, examples), the order of labels (B, ways), task numbers (B,)."""
        index = torch.from_numpy(self._rows(split, tasks, shots + queries))
        order = torch.from_numpy(draw_order(self.seed, split, tasks, self.ways[split]))
        return index, order, torch.from_numpy(tasks)

    def episode(self, drawn: tuple[Tensor, ...], shots: int) -> Episode:
        """The Episode of what `draw` drew: pixels in [0, 1], x (B, M, C, H, W); queries sorted by label."""
        index, order, tasks = drawn
        self.images = self.images.to(index.device)
        shown = index[:, :, :shots].take_along_dim(order.unsqueeze(-1), 1)
        support_x, support_y = self._gather(shown, order)
        query_x, query_y = self._gather(index[:, :, shots:], order.sort(1).values)
        return Episode(support_x, support_y, query_x, query_y, tasks)

    def _gather(self, index_BNE: Tensor, labels_BN: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.images[index_BNE.flatten(1)].to(torch.get_default_dtype()) / 255
        # the table is channels-last in memory; permuting keeps it so, which convolutions on a CPU like
        return pixels.permute(0, 1, 4, 2, 3), labels_BN.repeat_interleave(index_BNE.shape[2], 1)
