"""The one LightningDataModule: seeded streams of episodes for training, validation and test."""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import islice
from typing import Annotated, Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from torch import Tensor

from fewshot.episodes import Episode, Task
from fewshot.options import Few, Many, Units, Validated


@runtime_checkable
class Source(Protocol):
    """Where tasks come from: `draw` (on the CPU, with a leading task axis), `episode` (on the device)."""

    task: Task

    def draw(self, split: str, tasks: np.ndarray, shots: int, queries: int) -> tuple[Tensor, ...]: ...
    def episode(self, drawn: tuple[Tensor, ...], shots: int) -> Episode: ...

    def check(self, split: str, shots: int, queries: int) -> None:
        """UserError if the data are too few."""

    def standardise(self, scales: dict[str, Any]) -> None:
        """By the `scales` of the data that a learner was trained on, if they have any."""
        return

    def class_names(self, split: str, tasks: np.ndarray) -> list[list[str]]:
        """The names of the classes of some tasks, by label."""
        return [[] for _ in tasks]


class TaskStream:
    """Episodes of a split, `total` tasks an epoch; batch s has tasks s * batch ... (s + 1) * batch - 1.

    An epoch of training continues after the last batch seen; validation and test always begin with task 0.
    The state is the number of the next batch. Of `ranks` processes `rank` has its share of each batch. With a
    `group` of more than one, batches come in lists, up to each whose number is a multiple of it.
    """

    at_once = 128  # tasks drawn together: a draw's cost is numpy's calls, and a copy to the device

    def __init__(self, source: Source, split: str, shots: int, queries: int, batch: int, total: int) -> None:
        self.source, self.split, self.shots, self.queries = source, split, shots, queries
        self.batch, self.total, self.device = batch, total, torch.device("cpu")
        self.next, self.rank, self.ranks, self.group = 0, 0, 1, 1

    def __len__(self) -> int:
        return math.ceil((self.total - self.rank) / self.batch)  # the last batch may lack a share for a rank

    def share(self, step: int) -> np.ndarray:
        """The numbers of this process's tasks in batch `step`."""
        end = (step + 1) * self.batch
        if self.split != "train":
            end = min(end, self.total)
        return np.array_split(np.arange(step * self.batch, end), self.ranks)[self.rank]

    def __iter__(self) -> Iterator[Any]:
        first, grouped = self.next if self.split == "train" else 0, list[Episode]()
        shares = map(self.share, range(first, first + len(self)))
        while some := list(islice(shares, max(self.at_once // self.batch, 1))):
            drawn = self.draw(np.concatenate(some), self.queries)
            sizes = [len(tasks) for tasks in some]
            for part in zip(*(x.split(sizes) for x in drawn), strict=True):
                self.next += 1  # before the yield, after which nobody may ask for more
                grouped.append(self.source.episode(part, self.shots))
                if self.next % self.group == 0:
                    yield grouped if self.group > 1 else grouped[0]
                    grouped = []

    def draw(self, tasks: np.ndarray, queries: int) -> tuple[Tensor, ...]:
        drawn = self.source.draw(self.split, tasks, self.shots, queries)
        return tuple(x.to(self.device, non_blocking=True) for x in drawn)

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class EpisodicDataModule(Validated, L.LightningDataModule):
    """Episodes of `source`, sine waves, images or arrays: `shots` support examples a class (on sine a wave),
    or `train_shots` in training, and some queries; validation and test have the same tasks every time.

    Raises:
        UserError: an argument is not what its annotation allows, or the data are too few (from `setup`).
    """

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
        for split in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]:
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
