"""Episodes from a prepared image table: indices drawn on the CPU, images gathered on the training device."""

import sys
from itertools import compress
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.data.table import Classes, Table
from fewshot.episodes import Episode, Task, draw_images, draw_order
from fewshot.errors import UserError
from fewshot.options import Seed, Ways, validated


class ImageSource:
    """Tasks of `ways` classes from `table`, whose uint8 images move to the device once.

    `train_ways` is the number of classes in training, for learners without an output per class.
    """

    @validated
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
        self.kept: dict[str, Classes] = {}  # by split, once validated

    def ways_of(self, split: str) -> int:
        return self.train_ways if split == "train" else self.ways

    def check(self, split: str, shots: int, queries: int) -> None:
        """Restrict a split to its classes with `shots + queries` images or more, and print the others.

        Raises:
            UserError: too few classes are left for a task.
        """
        classes, need = self.table.splits[split], shots + queries
        enough = classes.counts >= need
        few = [f"{classes.names[number]} ({classes.counts[number]})" for number in np.flatnonzero(~enough)]
        which = ", ".join(few[:5]) + ", …" * (len(few) > 5)
        shots_key = "data.train_shots" if split == "train" else "shots"
        asked = f"{shots_key}={shots} + data.{split}_queries={queries}"
        if (ways := self.ways_of(split)) > enough.sum():
            name = "data.ways" if ways == self.ways else "data.train_ways"
            reason = f" with {need} images ({asked}): {len(few)} of {len(enough)} have fewer, {which}"
            there = f"more than the {enough.sum()} {split} classes{reason if few else ''}"
            raise UserError(
                f"{name}={ways} is {there}: ask for fewer ways, shots or queries, or add classes or images"
            )
        kept = Classes(tuple(compress(classes.names, enough)), classes.starts[enough], classes.counts[enough])
        if few and kept.names != self._drawn(split).names:
            said = f"{len(few)} of {len(enough)} {split} classes have fewer than {need} images ({asked})"
            print(f"{said} and are left out: {which}", file=sys.stderr)
        self.kept = self.kept | {split: kept}

    def _drawn(self, split: str) -> Classes:
        """The classes that tasks of a split are drawn from."""
        return self.kept.get(split, self.table.splits[split])

    def left_out(self) -> dict[str, list[str]]:
        """The classes, by split, that have too few images for the tasks asked for."""
        few = {
            split: sorted({*self.table.splits[split].names} - {*kept.names})
            for split, kept in self.kept.items()
        }
        return {split: names for split, names in few.items() if names}

    def classes(self) -> dict[str, list[tuple[str, int]]]:
        """Name and number of images of every class, by split."""
        splits = self.table.splits
        return {split: list(zip(c.names, c.counts.tolist(), strict=True)) for split, c in splits.items()}

    def class_names(self, split: str, tasks: NDArray[np.int64]) -> list[list[str]]:
        """The classes of some tasks, by label."""
        classes, ways = self._drawn(split), self.ways_of(split)
        rows_BN = draw_images(self.seed, split, tasks, classes.starts, classes.counts, ways, 1)[..., 0]
        numbers_BN = np.searchsorted(classes.starts, rows_BN, side="right") - 1
        return [[classes.names[number] for number in row] for row in numbers_BN]

    def draw(self, split: str, tasks: NDArray[np.int64], shots: int, queries: int) -> dict[str, Tensor]:
        """Row numbers of some tasks' images, (B, ways, shots + queries), by label; the order of labels in the
        support set, (B, ways); and the task numbers (B,)."""
        classes, ways = self._drawn(split), self.ways_of(split)
        index = draw_images(self.seed, split, tasks, classes.starts, classes.counts, ways, shots + queries)
        order = draw_order(self.seed, split, tasks, ways)
        drawn = {"index": index, "order": order, "tasks": tasks}
        return {name: torch.from_numpy(values) for name, values in drawn.items()}

    def episode(self, drawn: dict[str, Tensor], shots: int) -> Episode:
        """The Episode of what `draw` drew: pixels in [0, 1], x (B, M, C, H, W); queries sorted by label."""
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
