"""What Lightning leaves to a project: validation at step 0, and curves by training tasks."""

import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor
from torch.nn.utils import get_total_norm

from fewshot.episodes import Episode
from fewshot.files import atomic_open

FIELDS = ["tasks", "step", "metric", "value"]


class PrintValidation(Callback):
    """A line a validation with its score, where there is no bar: in a log file, or on a cluster."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        metric = f"val/{pl_module.task.metric}"
        score = f"{metric} {trainer.callback_metrics[metric]:.4g}"
        print(f"update {trainer.global_step} of {trainer.max_steps}: {score}", file=sys.stderr)


class TrainMetrics(Callback):
    """Validates before the first update, and logs training every `every` updates by training tasks seen.

    The gradient is that before any clipping. A row that Lightning logged itself would come after the save of
    its update, and be lost where a run stops there.
    """

    def __init__(self, meta_batch_size: int, every: int) -> None:
        self.meta_batch_size, self.every, self.norm = meta_batch_size, every, torch.tensor(math.nan)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if (trainer.global_step + 1) % self.every == 0:
            self.norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Episode, *_: Any
    ) -> None:
        step = trainer.global_step
        if step % self.every != 0:
            return

        def mean(of_tasks: Tensor) -> float:
            total = trainer.strategy.reduce(of_tasks.detach().clone(), reduce_op="sum")
            return total.item() / self.meta_batch_size

        row = {"tasks": float(step * self.meta_batch_size), "train/loss": mean(outputs["loss"])}
        row["train/gradient_norm"] = outputs.get("gradient_norm", self.norm).item()
        if not pl_module.task.regression:
            row["train/accuracy"] = mean(pl_module.scores(outputs["predictions"], batch.query_y).sum())
        for logger in trainer.loggers:
            logger.log_metrics(row, step)
        pl_module.log("train/loss", row["train/loss"], prog_bar=True, logger=False)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = float(trainer.global_step)
        pl_module.log("tasks", step * self.meta_batch_size, sync_dist=True)
        pl_module.log("step", step, sync_dist=True)  # which Lightning takes for its own, one less


class MetricsCsv(DummyLogger):
    """Appends every logged number to `metrics.csv`, one per row: tasks seen, step, metric, value.

    Lightning's CSVLogger replaces the file when a run resumes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def cut(self, step: int) -> None:
        """Drops rows after a step, which a resumed run logs again, and a row that a kill left incomplete."""
        if not self.path.exists():
            return
        with self.path.open(newline="", errors="replace") as old, atomic_open(self.path) as new:
            rows = [row for row in csv.reader(old) if len(row) == len(FIELDS) and row[1].isdigit()]
            csv.writer(new).writerows([FIELDS, *(row for row in rows if int(row[1]) <= step)])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "tasks" not in metrics:
            return
        tasks = int(metrics["tasks"])
        rows = [(tasks, step, name, value) for name, value in metrics.items() if name != "tasks"]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows if file.tell() else [FIELDS, *rows])
