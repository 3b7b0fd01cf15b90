"""What Lightning leaves to a project: validation at step 0, curves by training tasks, the best state."""

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor
from torch.nn.utils import get_total_norm

from fewshot.episodes import Episode
from fewshot.errors import Diverged
from fewshot.methods import MetaLearner
from fewshot.training.distributed import all_reduce_sum


class ProgressBar(RichProgressBar):
    """Lightning's bar over updates, without epochs and run numbers, which mean nothing here."""

    last: tuple[Tensor, int] | None = None

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps  # Lightning's is what is left, beside a count from the beginning

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Episode, batch_idx: int
    ) -> None:
        self.last = outputs["loss"], len(batch.tasks)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        if self.last is not None:
            loss, tasks = self.last
            shown["train/loss"] = loss.item() / tasks
        return shown


class PrintValidation(Callback):
    """A line a validation with its score, where there is no bar: in a log file, or on a cluster."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        if trainer.state.fn == "fit":
            metric = f"val/{pl_module.task.metric}"
            score = float(trainer.callback_metrics[metric])
            print(
                f"update {trainer.global_step} of {trainer.max_steps}: {metric} {score:.4g}", file=sys.stderr
            )


class ValidateFirst(Callback):
    """Validates before the first update of a run, so that every curve starts at the untrained learner."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best validated weights in `best.ckpt` of `folder`, which may have moved since the run
    began."""

    def __init__(self, folder: Path, metric: str) -> None:
        mode = "min" if metric == "mse" else "max"
        options: dict[str, Any] = {"save_weights_only": True, "enable_version_counter": False}
        super().__init__(folder, "best", f"val/{metric}", mode=mode, **options)
        self.path = os.path.join(str(self.dirpath), "best.ckpt")
        self._last_global_step_saved = -1  # Lightning's 0 would leave out the state before the first update

    @property
    def best_score(self) -> float | None:
        """The best validation score; None where there is none that is finite."""
        score = self.best_model_score
        return None if score is None or not torch.isfinite(score) else float(score)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        score = trainer.callback_metrics[str(self.monitor)]
        if not torch.isfinite(score):
            raise Diverged(f"{self.monitor} was {score.item()} after update {trainer.global_step}")
        super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        moved = state_dict | {"dirpath": self.dirpath}
        if state_dict["best_k_models"]:  # nothing was kept before the first validation
            [score] = state_dict["best_k_models"].values()
            moved |= {"best_k_models": {self.path: score}}
            moved |= {"best_model_path": self.path, "kth_best_model_path": self.path}
        super().load_state_dict(moved)


class TrainMetrics(Callback):
    """Logs training, every `every` updates and before any save, beside the number of training tasks seen.

    The accuracy and the norm of the gradient, before any clipping, are computed for these updates alone. On
    sine the loss is the score. A row that Lightning logged itself would come after the save of its update,
    and be lost where a run stops there.
    """

    def __init__(self, meta_batch_size: int, every: int) -> None:
        self.meta_batch_size, self.every = meta_batch_size, every
        self.since = (time.perf_counter(), 0)
        self.norm = torch.tensor(math.nan)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if (trainer.global_step + 1) % self.every == 0:
            scaler = getattr(trainer.precision_plugin, "scaler", None)  # of 16-mixed
            scale = scaler.get_scale() if scaler is not None else 1.0
            self.norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None]) / scale

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Episode, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MetaLearner)
        step, size = trainer.global_step, self.meta_batch_size
        if step % self.every != 0:
            return
        now, (then, last) = time.perf_counter(), self.since
        self.since = (now, step)
        row = {
            "tasks": float(step * size),
            "train/loss": all_reduce_sum(trainer, outputs["loss"]).item() / size,
            "train/gradient_norm": self.norm.item(),
            "train/tasks_per_second": (step - last) * size / (now - then),
        }
        if not pl_module.task.regression:
            right = pl_module.scores(outputs["predictions"], batch.query_y).sum()
            row["train/accuracy"] = all_reduce_sum(trainer, right).item() / size
        for logger in trainer.loggers:
            logger.log_metrics(row, step)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            step = float(trainer.global_step)
            pl_module.log("tasks", step * self.meta_batch_size, sync_dist=True)
            pl_module.log("step", step, sync_dist=True)  # which Lightning takes for its own, one less
            self.since = (time.perf_counter(), trainer.global_step)
