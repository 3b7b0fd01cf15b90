"""Sine waves (Finn et al. 2017; section 5 of the paper): few-shot regression that needs no files."""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from fewshot.data.datamodule import Source
from fewshot.episodes import Episode, Task, random_bits, task_keys, uniform
from fewshot.options import Seed, Validated

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, float(np.pi))
X_RANGE = (-5.0, 5.0)


class SineSource(Validated, Source):
    """Tasks y = A sin(x + sign * p), A and p uniform over AMPLITUDE and PHASE, x uniform over X_RANGE.

    `sign` is -1 in the paper's text and +1 in its released runs.
    """

    task = Task((1,), 1, regression=True)

    def __init__(
        self, seed: Seed, sign: Annotated[Literal[1, -1], "of the phase p in y = A sin(x + sign * p)"] = -1
    ) -> None:
        self.seed, self.sign = seed, sign

    def draw(self, split: str, tasks: np.ndarray, shots: int, queries: int) -> tuple[Tensor, ...]:
        """Inputs x and targets y of some tasks, each (B, shots + queries), and the task numbers (B,)."""
        keys = task_keys(self.seed, split, tasks)[:, None]
        x = uniform(random_bits(keys, np.arange(2, 2 + shots + queries, dtype=np.uint64)), *X_RANGE)
        amplitude = uniform(random_bits(keys, np.uint64(0)), *AMPLITUDE)
        phase = uniform(random_bits(keys, np.uint64(1)), *PHASE)
        y = amplitude * np.sin(x + self.sign * phase)
        dtype = torch.get_default_dtype()  # there are devices without float64
        return torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype), torch.from_numpy(tasks)

    def episode(self, drawn: tuple[Tensor, ...], shots: int) -> Episode:
        """The Episode of what `draw` drew, in the default dtype; x and y get a trailing axis of 1."""
        x, y, tasks = drawn[0][..., None], drawn[1][..., None], drawn[2]
        return Episode(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:], tasks)
