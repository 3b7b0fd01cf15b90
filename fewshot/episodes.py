"""Episodes: what a learner sees, and the seeded draw of the tasks behind them.

A task is a function of (seed, split, task number) and nothing else: whatever the meta-batch, the learner, the
device or the library version, task 17 of a split is the same task. Its examples nest: for one task number the
first `shots` images of a class are its support set and the next ones its queries, so the support set of the
1-shot task is part of the support set of the 5-shot task.

Shape suffixes: B tasks, N ways, C classes of a split, E examples of a class, M support examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

SPLITS = ("train", "val", "test")
ORDER = np.uint64(2**32)  # which of a task's streams orders its support set; the first ones are its classes'


@dataclass(frozen=True)
class Task:
    """The shape of a learner's tasks: one example's shape, the number of outputs, and whether they are real.

    `train_outputs` is the number of outputs in training where that is another one.
    """

    input_shape: tuple[int, ...]
    outputs: int
    regression: bool
    train_outputs: int | None = None

    __pydantic_config__: ClassVar = {"strict": False}  # a checkpoint holds it as plain data

    @property
    def metric(self) -> str:
        return "mse" if self.regression else "accuracy"

    @property
    def baseline(self) -> str:
        return "support_mean" if self.regression else "nearest_neighbour"


class Episode(NamedTuple):
    """A batch of tasks, every tensor with a leading task axis of size B.

    `support_x` (B, M, *input) and `query_x` (B, Q, *input) are float; `support_y` and `query_y` are int64
    class numbers 0..ways-1 of shape (B, M) and (B, Q), or float targets (B, M, outputs) and (B, Q, outputs);
    `tasks` (B,) are the task numbers.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    tasks: Tensor


def random_bits(key: np.ndarray, counter: np.ndarray | np.uint64) -> np.ndarray:
    """Word number `counter` of the stream `key` of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

    Both arguments broadcast. 64 raw bits a word, the same for ever: no library's generator takes part.
    """
    with np.errstate(over="ignore"):
        z = key + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def task_keys(seed: int, split: str, tasks: np.ndarray) -> np.ndarray:
    """One stream a task, (B,): the seed's stream gives each split a key, the split's stream each task."""
    seed_key = np.array([seed], dtype=np.uint64)
    split_key = random_bits(seed_key, np.array([SPLITS.index(split)], dtype=np.uint64))
    return random_bits(split_key, tasks.astype(np.uint64))


def uniform(words: np.ndarray, low: float, high: float) -> np.ndarray:
    """Floats in [low, high) from the top 53 bits of raw words."""
    return low + (high - low) * ((words >> np.uint64(11)) * 2.0**-53)


def draw_order(seed: int, split: str, tasks: np.ndarray, ways: int) -> np.ndarray:
    """The order in which the support sets of some tasks show their labels, (B, ways).

    A sequence sorted by label would give the labels away by position; the released code shuffles each task,
    too.
    """
    keys_B = random_bits(task_keys(seed, split, tasks), ORDER)
    return np.argsort(random_bits(keys_B[:, None], np.arange(ways, dtype=np.uint64)), axis=1)


def draw_images(
    seed: int,
    split: str,
    tasks: np.ndarray,
    starts_C: np.ndarray,
    counts_C: np.ndarray,
    ways: int,
    examples: int,
) -> np.ndarray:
    """Row numbers in the image table, (B, ways, examples): classes and images without replacement.

    `starts_C` and `counts_C` are each class's first row and number of rows. The order of `ways` gives the
    label. ValueError where a class drawn has fewer than `examples` rows. Sorting raw words is a permutation
    without modulo bias; classes smaller than the largest are masked at the end.
    """
    keys_B = task_keys(seed, split, tasks)
    words_BC = random_bits(
        random_bits(keys_B, np.uint64(0))[:, None], np.arange(len(starts_C), dtype=np.uint64)
    )
    classes_BN = np.argsort(words_BC, axis=1)[:, :ways]
    keys_BN = random_bits(keys_B[:, None], np.arange(1, ways + 1, dtype=np.uint64))
    counts_BN = counts_C[classes_BN]
    if examples > counts_BN.min():
        raise ValueError(f"{examples} examples asked of a class of {counts_BN.min()}")
    positions_E = np.arange(counts_BN.max())
    words_BNE = random_bits(keys_BN[..., None], positions_E.astype(np.uint64))
    words_BNE[positions_E >= counts_BN[..., None]] = np.iinfo(np.uint64).max
    return starts_C[classes_BN][..., None] + np.argsort(words_BNE, axis=2)[..., :examples]
