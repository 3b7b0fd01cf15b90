"""The training step inside a run: Lightning's loop with the project's callbacks, checkpoints and metrics.csv."""

import io
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fewshot.training.prepare import Run
from lightning.pytorch.callbacks import Callback, Timer

from benchmarks.cases import build
from benchmarks.clock import Times
from fewshot.training.callbacks import BestCheckpoint
from fewshot.training.fit import fit, make_trainer
from fewshot.training.loggers import quiet

WARM_UP = 3


class Stamps(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float]] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.at.append((time.perf_counter(), time.process_time()))


def lightning_times(name: str, device: str, settings: Sequence[str], steps: int) -> Times:
    """Times from the end of one step to that of the next, of a run of `steps` and a few to warm up."""
    updates = steps + WARM_UP
    short = [
        f"trainer.max_steps={updates}",
        f"trainer.val_check_interval={updates}",
        "trainer.num_val_tasks=1",
    ]
    quietly = [
        f"trainer.accelerator={device.split(':')[0]}",
        "trainer.enable_progress_bar=false",
        "logger=csv",
    ]
    case = build(name, device, [*settings, *short, *quietly])
    del case.learner.log  # Lightning's own
    quiet()
    times, stamps = Times(), Stamps()
    with TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        run = Run(case.cfg, Path(folder), case.learner, case.datamodule, {}, None)
        save_best = BestCheckpoint(
            run.folder, case.learner.task.metric, "min" if case.learner.task.regression else "max"
        )
        trainer = make_trainer(run, Timer(), save_best, -1)
        trainer.callbacks.append(stamps)  # type: ignore[attr-defined]
        fit(run, trainer, None, -1)
    for before, after in zip(stamps.at[WARM_UP - 1 :], stamps.at[WARM_UP:], strict=False):
        times.wall.append(after[0] - before[0])
        times.cpu.append(after[1] - before[1])
    return times
