"""Episodes whose examples are rows of a table: rows drawn on the CPU, gathered on the training device."""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.data.datamodule import Source
from fewshot.data.table import Table
from fewshot.episodes import Episode, Task, draw_images, draw_order
from fewshot.errors import UserError


class RowSource(Source):
    """Tasks of classes of `table`; in regression a class of the table is a task.

    A subclass says in `examples` what a row is for a learner. Rows move to the device once.
    """

    def __init__(self, seed: int, table: Table, task: Task) -> None:
        self.seed, self.table, self.task = seed, table, task
        self.scales: dict[str, Any] = {}  # see `standardise`
        ways = 1 if task.regression else task.outputs
        self.ways = {"train": task.train_outputs or ways, "val": ways, "test": ways}
        self.rows = torch.from_numpy(table.rows)
        self.drawn = table.splits  # the classes that tasks are drawn from
        self.left_out: dict[
            str, list[str]
        ] = {}  # by split those with too few examples for the tasks asked for

    def check(self, split: str, shots: int, queries: int) -> None:
        """Leave out, and print, a split's classes with too few examples; UserError if too few are left."""
        classes, ways = self.table.splits[split], self.ways[split]
        kept = {name: rows for name, rows in classes.items() if len(rows) >= shots + queries}
        asked = f"{shots + queries} examples (shots={shots} + data.{split}_queries={queries})"
        if self.task.regression and not kept:
            raise UserError(f"no {split} task has {asked}")
        if ways > len(kept):
            raise UserError(f"{ways} ways need as many {split} classes; {len(kept)} have {asked}")
        few = [name for name in classes if name not in kept]
        if few and few != self.left_out.get(split):
            said = f"{len(few)} of {len(classes)} {split} classes have fewer than {asked} and are left out"
            print(f"{said}, as {few[0]}", file=sys.stderr)
        self.drawn, self.left_out = self.drawn | {split: kept}, self.left_out | {split: few}

    def classes(self) -> dict[str, list[tuple[str, int]]]:
        """Name and number of examples of every class, by split."""
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
        """Rows by label (B, ways, examples), the order of labels (B, ways), task numbers (B,)."""
        index = torch.from_numpy(self._rows(split, tasks, shots + queries))
        order = torch.from_numpy(draw_order(self.seed, split, tasks, self.ways[split]))
        return index, order, torch.from_numpy(tasks)

    def episode(self, drawn: tuple[Tensor, ...], shots: int) -> Episode:
        """The Episode of what `draw` drew; queries are sorted by label."""
        index, order, tasks = drawn
        self.rows = self.rows.to(index.device)
        shown = index[:, :, :shots].take_along_dim(order.unsqueeze(-1), 1)
        support = self.labelled(shown, order)
        return Episode(*support, *self.labelled(index[:, :, shots:], order.sort(1).values), tasks)

    def labelled(self, index_BNE: Tensor, labels_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Examples (B, M, *input) and labels (B, M)."""
        return self.examples(index_BNE.flatten(1)), labels_BN.repeat_interleave(index_BNE.shape[2], 1)

    def examples(self, index_BM: Tensor) -> Tensor:
        raise NotImplementedError
