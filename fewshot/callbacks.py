"""What Lightning leaves to a project: validation at step 0, saves that resume exactly, the task axis of curves."""

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar
from torch import Tensor

from fewshot.errors import Diverged


class Bar(RichProgressBar):
    """Lightning's bar over updates, without epochs and run numbers, which mean nothing here."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


class ValidateFirst(Callback):
    """Validates before the first update of a run, so that every curve starts at the untrained learner."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


class SaveBest(ModelCheckpoint):
    """Keeps the best validated weights in `best.ckpt` of `folder`, which may have moved since the run began."""

    def __init__(self, folder: Path, metric: str, mode: str) -> None:
        super().__init__(
            folder, "best", f"val/{metric}", mode=mode, save_weights_only=True, enable_version_counter=False
        )
        self.path = os.path.join(str(self.dirpath), "best.ckpt")
        self._last_global_step_saved = -1  # Lightning's 0 would leave out the state before the first update

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        moved = state_dict | {"dirpath": self.dirpath}
        if state_dict["best_k_models"]:  # nothing was kept before the first validation
            [score] = state_dict["best_k_models"].values()
            moved |= {"best_k_models": {self.path: score}}
            moved |= {"best_model_path": self.path, "kth_best_model_path": self.path}
        super().load_state_dict(moved)


class SaveLast(Checkpoint):  # Lightning runs these last and in order: the best state is known by then
    """Saves the state at each validation and every `every` updates in between; refuses to save a diverged one.

    Where a validation is due, only the state after it is saved: a run killed during a validation repeats it.
    """

    def __init__(self, path: Path, every: int, check_every: int, val_every: int) -> None:
        self.path, self.every, self.check_every, self.val_every = path, every, check_every, val_every

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        step = trainer.global_step
        due = step % self.check_every == 0 or step % self.every == 0
        if due and not torch.isfinite(outputs["loss"]):
            raise Diverged(f"the loss was {outputs['loss'].item()} at update {step}")
        if step % self.every == 0 and step % self.val_every != 0:
            self.save(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and trainer.global_step > 0:  # at 0 there is nothing to go on from
            self.save(trainer, pl_module)

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        check_finite(trainer, pl_module)
        trainer.save_checkpoint(self.path)


def check_finite(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    for name, parameter in pl_module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(f"{name} was not finite after update {trainer.global_step}")


class TaskAxis(Callback):
    """Logs the number of training tasks seen and the tasks per second beside every logged metric."""

    def __init__(self, meta_batch: int) -> None:
        self.meta_batch = meta_batch
        self.since = (time.perf_counter(), 0)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            now, (then, last) = time.perf_counter(), self.since
            self.since = (now, step)
            pl_module.log("train/tasks_per_second", (step - last) * self.meta_batch / (now - then))
            pl_module.log("tasks", float(step * self.meta_batch))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            pl_module.log("tasks", float(trainer.global_step * self.meta_batch))
            self.since = (time.perf_counter(), trainer.global_step)


def finite(score: Tensor | None) -> float | None:
    return None if score is None or not torch.isfinite(score) else float(score)
