"""The one LightningDataModule: seeded streams of episodes for training, validation and test."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Annotated, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.episodes import SPLITS, Episode, Task
from fewshot.options import Few, Many, Units, validated

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


@runtime_checkable
class Source(Protocol):
    """Where tasks come from: `draw` on the CPU, tensors with a leading task axis; `episode` on the device, of
    some of these tasks. `note` is what a user should know of it."""

    note: str
    task: Task

    def check(self, split: str, shots: int, queries: int) -> None: ...
    def draw(self, split: str, tasks: NDArray[np.int64], shots: int, queries: int) -> dict[str, Tensor]: ...
    def episode(self, drawn: dict[str, Tensor], shots: int) -> Episode: ...
    def class_names(self, split: str, tasks: NDArray[np.int64]) -> list[list[str]]: ...


class TaskStream:
    """Episodes: batch s holds tasks s * batch ... s * batch + batch - 1 of a split, `total` tasks an epoch.

    Training counts them across epochs: each has new tasks, and one that was left early begins again. The
    state is the number of the next batch. Of `ranks` processes `rank` has its share of a batch.
    """

    at_once = 128  # tasks drawn together: a draw's cost is numpy's calls, and a copy to the device

    def __init__(self, source: Source, split: str, shots: int, queries: int, batch: int, total: int) -> None:
        self.source, self.split, self.shots, self.queries = source, split, shots, queries
        self.batch, self.total, self.device = batch, total, torch.device("cpu")
        self.start = self.next = 0
        self.rank, self.ranks = 0, 1

    @property
    def steps(self) -> int:
        return -(-self.total // self.batch)

    def __len__(self) -> int:
        return self.steps - (len(self.share(self.steps - 1)) == 0)

    def share(self, step: int) -> NDArray[np.int64]:
        epoch, step = divmod(step, self.steps)
        tasks = np.arange(step * self.batch, min((step + 1) * self.batch, self.total)) + epoch * self.total
        return np.array_split(tasks, self.ranks)[self.rank]

    def __iter__(self) -> Iterator[Episode]:
        steps = range(self.start, self.start // self.steps * self.steps + len(self))
        together = max(self.at_once // self.batch, 1)
        for first in steps[::together]:
            shares = [self.share(step) for step in range(first, min(first + together, steps.stop))]
            drawn = self.draw(np.concatenate(shares), self.queries)
            parts = zip(*(x.split([len(tasks) for tasks in shares]) for x in drawn.values()), strict=True)
            for step, part in enumerate(parts, first):
                self.next = step + 1
                if self.split == "train":  # here, as nobody may ask for more than the last batch of an epoch
                    self.start = self.next // self.steps * self.steps
                yield self.source.episode(dict(zip(drawn, part, strict=True)), self.shots)

    def draw(self, tasks: NDArray[np.int64], queries: int) -> dict[str, Tensor]:
        drawn = self.source.draw(self.split, tasks, self.shots, queries)
        return {name: x.to(self.device, non_blocking=True) for name, x in drawn.items()}

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = self.next = state["next"]


class EpisodicDataModule(L.LightningDataModule):
    """Episodes of `source`, sine waves or an image table: `shots` support examples a class (on sine a wave),
    or `train_shots` in training, and some queries; validation and test have the same tasks every time.

    Raises:
        UserError: an argument is not what its annotation allows, or the data are too few (from `setup`).
    """

    @validated
    def __init__(
        self,
        source: Source,
        shots: Annotated[Few, "support examples a class, on sine a wave"],
        meta_batch_size: Annotated[Units, "tasks of an update"],
        max_steps: Annotated[Many, "meta-updates"],
        train_shots: Annotated[Few | None, "shots in training; null: the same"] = None,
        train_queries: Annotated[Few, "queries a class in training"] = 15,
        val_queries: Annotated[Few, "queries a class in validation"] = 15,
        test_queries: Annotated[Few, "queries a class in the test"] = 15,
        num_val_tasks: Annotated[Many, "tasks of a validation"] = 600,
        num_test_tasks: Annotated[Many, "tasks of the test"] = 600,
        eval_batch_size: Annotated[Units, "tasks at a time in validation and test: speed, not scores"] = 20,
    ) -> None:
        super().__init__()
        self.source = source = copy(source)  # `setup` chooses its classes, and another module may have others
        self.eval_batch_size = eval_batch_size
        updates = (meta_batch_size, meta_batch_size * max_steps)
        self.streams = {
            "train": TaskStream(source, "train", train_shots or shots, train_queries, *updates),
            "val": TaskStream(source, "val", shots, val_queries, eval_batch_size, num_val_tasks),
            "test": TaskStream(source, "test", shots, test_queries, eval_batch_size, num_test_tasks),
        }

    def setup(self, stage: str) -> None:
        if stage == "fit":  # each fit begins with the first task, unless it restores a checkpoint
            self.load_state_dict({"next": 0})
        for split in STAGES.get(stage, SPLITS):
            stream = self.streams[split]
            self.source.check(split, stream.shots, stream.queries)
            if self.trainer is not None:
                stream.device = self.trainer.strategy.root_device
                stream.rank, stream.ranks = self.trainer.global_rank, self.trainer.world_size
                if split != "train":
                    stream.batch = self.eval_batch_size * stream.ranks

    def episode(self, split: str, tasks: Sequence[int], queries: int | None = None) -> Episode:
        """Some tasks of a split by their numbers, B = len(tasks); `queries` instead of the split's own."""
        stream = self.streams[split]
        drawn = stream.draw(np.array(tasks, dtype=np.int64), queries or stream.queries)
        return self.source.episode(drawn, stream.shots)

    def class_names(self, split: str, tasks: Sequence[int]) -> list[list[str]]:
        """The names of the classes of some tasks, by label; none where there are no classes."""
        return self.source.class_names(split, np.array(tasks, dtype=np.int64))

    def train_dataloader(self) -> TaskStream:
        return self.streams["train"]

    def val_dataloader(self) -> TaskStream:
        return self.streams["val"]

    def test_dataloader(self) -> TaskStream:
        return self.streams["test"]

    def state_dict(self) -> dict[str, int]:
        return self.streams["train"].state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The position in the training tasks; Lightning restores a stream's own only within an epoch."""
        self.streams["train"].load_state_dict(state)
