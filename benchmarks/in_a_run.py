"""The training step in a run: Lightning's loop with the project's callbacks and checkpoints."""

import io
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch.callbacks import Callback

from benchmarks.cases import build
from benchmarks.clock import Times
from fewshot.training.build import make_trainer
from fewshot.training.run import fit_and_test

WARM_UP = 5  # steps, in which it is compiled
SHORT = [
    "trainer.num_val_tasks=1",
    "trainer.num_test_tasks=1",
    "trainer.enable_progress_bar=false",
    "logger=csv",
]


class StepTimes(Callback):
    """Updates made, wall and CPU time at the end of each batch of Lightning's: of one update or many."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, float, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.ends.append((trainer.global_step, time.perf_counter(), time.process_time()))


def lightning_times(name: str, device: str, settings: Sequence[str], steps: int) -> Times:
    """Times of some `steps` training steps of a run, each from the end of the one before."""
    updates = steps + WARM_UP
    updates -= updates % 50 if updates > 50 else 0  # a run logs after 50: short ones may be one batch
    length = [f"trainer.max_steps={updates}", f"trainer.val_check_interval={updates}"]
    case = build(name, device, [*settings, *SHORT, *length, f"trainer.accelerator={device.split(':')[0]}"])
    del case.learner.log  # Lightning's own
    times, step_times = Times(), StepTimes()
    with TemporaryDirectory() as temporary, redirect_stderr(io.StringIO()):
        folder = Path(temporary)
        trainer = make_trainer(case.cfg, folder)
        trainer.callbacks.append(step_times)  # type: ignore[attr-defined]
        fit_and_test(case.cfg, folder, case.datamodule, case.learner, trainer)
    for before, after in pairwise(step_times.ends[WARM_UP - 1 :]):
        made = after[0] - before[0]
        times.wall += [(after[1] - before[1]) / made] * made
        times.cpu += [(after[2] - before[2]) / made] * made
    return times
