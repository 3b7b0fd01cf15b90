"""The one LightningDataModule: seeded streams of episodes for training, validation and test."""

from collections.abc import Iterator
from typing import Protocol

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewshot.episodes import SPLITS, Episode


class Source(Protocol):
    """Where tasks come from: `draw` on the CPU, `episode` on the device. `note` is what a user should know of it."""

    note: str
    input_shape: tuple[int, ...]
    outputs: int
    regression: bool

    def draw(self, split: str, tasks: NDArray[np.int64], shots: int, queries: int) -> dict[str, Tensor]: ...
    def episode(self, drawn: dict[str, Tensor], shots: int) -> Episode: ...


class TaskStream:
    """Batch s holds the tasks s * batch ... s * batch + batch - 1 of a split, `total` tasks in all.

    Its state is the number of the next batch, so that a resumed run goes on with the task it would have seen.
    """

    def __init__(self, source: Source, split: str, shots: int, queries: int, batch: int, total: int) -> None:
        self.source, self.split, self.shots, self.queries = source, split, shots, queries
        self.batch, self.total = batch, total
        self.start = self.next = 0

    def __len__(self) -> int:
        return -(-self.total // self.batch)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], int]]:
        start, self.start = self.start, 0  # only the first pass after a restore begins in the middle
        for step in range(start, len(self)):
            self.next = step + 1
            tasks = np.arange(step * self.batch, min((step + 1) * self.batch, self.total))
            yield self.source.draw(self.split, tasks, self.shots, self.queries), self.shots

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = self.next = state["next"]


class EpisodicDataModule(L.LightningDataModule):
    """Episodes of `shots[split]` support examples a class and `queries[split]` query examples.

    Args:
        source: sine waves or an image table.
        shots: support examples a class (a wave) for "train", "val" and "test".
        queries: query examples a class (a wave) for "train", "val" and "test".
        meta_batch: tasks a training step.
        updates: training steps.
        val_tasks, test_tasks: numbers of fixed tasks for validation and test.
        eval_batch: tasks at a time in validation and test; changes the speed, not the scores.
    """

    def __init__(
        self,
        source: Source,
        shots: dict[str, int],
        queries: dict[str, int],
        meta_batch: int,
        updates: int,
        val_tasks: int,
        test_tasks: int,
        eval_batch: int,
    ) -> None:
        super().__init__()
        self.source = source
        batches = {"train": meta_batch, "val": eval_batch, "test": eval_batch}
        totals = {"train": meta_batch * updates, "val": val_tasks, "test": test_tasks}
        self.streams = {
            split: TaskStream(source, split, shots[split], queries[split], batches[split], totals[split])
            for split in SPLITS
        }

    def train_dataloader(self) -> TaskStream:
        return self.streams["train"]

    def val_dataloader(self) -> TaskStream:
        return self.streams["val"]

    def test_dataloader(self) -> TaskStream:
        return self.streams["test"]

    def on_after_batch_transfer(self, batch: tuple[dict[str, Tensor], int], dataloader_idx: int) -> Episode:
        return self.source.episode(*batch)
