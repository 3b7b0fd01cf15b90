"""What Lightning leaves to a project: validation at step 0, saves that resume exactly, the task axis of curves."""

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar, Timer
from torch import Tensor
from torch.nn.utils import get_total_norm

from fewshot import signals
from fewshot.episodes import Episode
from fewshot.errors import Diverged, OutOfTime
from fewshot.methods.base import MetaLearner
from fewshot.signals import Stopped
from fewshot.training.distributed import all_reduce_max


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
        """What is shown, every so many updates: the loss of the last, and the last validation."""
        shown = super().get_metrics(trainer, pl_module)
        if self.last is not None:
            loss, tasks = self.last
            shown["train/loss"] = loss.item() / tasks
        return {name: value for name, value in shown.items() if name != "v_num"}


class PrintValidation(Callback):
    """A line a validation with its score, where there is no bar: in a log file, or on a cluster."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        score = f"val/{pl_module.task.metric}"
        if trainer.state.fn == "fit":
            told = f"{score} {float(trainer.callback_metrics[score]):.4g}"
            print(f"update {trainer.global_step} of {trainer.max_steps}: {told}", file=sys.stderr)


class ValidateFirst(Callback):
    """Validates before the first update of a run, so that every curve starts at the untrained learner."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best validated weights in `best.ckpt` of `folder`, which may have moved since the run began."""

    def __init__(self, folder: Path, metric: str, mode: str) -> None:
        super().__init__(
            folder, "best", f"val/{metric}", mode=mode, save_weights_only=True, enable_version_counter=False
        )
        self.path = os.path.join(str(self.dirpath), "best.ckpt")
        self._last_global_step_saved = -1  # Lightning's 0 would leave out the state before the first update

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not torch.isfinite(score := trainer.callback_metrics[str(self.monitor)]):
            raise Diverged(f"{self.monitor} was {score.item()} after update {trainer.global_step}")
        super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        moved = state_dict | {"dirpath": self.dirpath}
        if state_dict["best_k_models"]:  # nothing was kept before the first validation
            [score] = state_dict["best_k_models"].values()
            moved |= {"best_k_models": {self.path: score}}
            moved |= {"best_model_path": self.path, "kth_best_model_path": self.path}
        super().load_state_dict(moved)


class LastCheckpoint(Checkpoint):  # Lightning runs these last and in order: the best state is known by then
    """Saves the state at each validation and every `every` updates in between; refuses to save a diverged one.

    Where a validation is due, only the state after it is saved: a run killed during a validation repeats it.

    Raises:
        Stopped: a signal has come, OutOfTime: `seconds` are over; both after a save, and without a trace in what is
            logged, so that the run ends as one that was never stopped.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        check_every: int,
        val_check_interval: int,
        timer: Timer,
        seconds: float,
    ):
        self.path = folder / "last.ckpt"
        self.every, self.check_every, self.val_check_interval = every, check_every, val_check_interval
        self.timer, self.seconds = timer, seconds
        self.restored, self.saved = False, 0  # whether the state has been loaded; the update of the last save

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.restored, self.saved = True, trainer.global_step
        signals.train(True)
        if self.saved and self.end(trainer):
            raise self.ended(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        step = trainer.global_step
        due = step % self.check_every == 0 or step % self.every == 0
        if due and not torch.isfinite(loss := all_reduce_sum(trainer, outputs["loss"])):
            raise Diverged(f"the loss was {loss.item()} at update {step}")
        end = self.end(trainer)
        if step % self.val_check_interval != 0 and (
            step % self.every == 0 or step == trainer.max_steps or end
        ):
            self.save(trainer, pl_module, end)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if (
            trainer.state.fn == "fit" and signals.asked and trainer.world_size == 1
        ):  # others are elsewhere in theirs
            raise self.ended(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and trainer.global_step > 0:  # at 0 there is nothing to go on from
            self.save(trainer, pl_module, self.end(trainer))

    def end(self, trainer: L.Trainer) -> bool:
        """Whether the run has been asked to end, or has no time left for what there is to do."""
        over = self.timer.time_elapsed("train") >= self.seconds and trainer.global_step < trainer.max_steps
        told = all_reduce_max(float(signals.asked or over / 2))  # a signal, or time
        if told >= 1:
            signals.asked = signal.Signals(int(told))
        return told > 0

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule, end: bool) -> None:
        check_finite(trainer, pl_module)
        trainer.save_checkpoint(self.path)
        self.saved = trainer.global_step
        if end:
            raise self.ended(trainer)

    def ended(self, trainer: L.Trainer) -> BaseException:
        if signals.asked is None:
            return OutOfTime()
        where = f"goes on from update {self.saved} of {trainer.max_steps}" if self.saved else "begins anew"
        return Stopped(signals.asked, f"stopped by {signals.asked.name}: {signals.again()} {where}")

    def state_dict(self) -> dict[str, Any]:
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"threads": torch.get_num_threads(), "random": [torch.get_rng_state(), *on_gpus]}  # of dropout

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own, *on_gpus = state_dict.get("random", [torch.get_rng_state()])
        torch.set_rng_state(own)
        if len(on_gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(on_gpus)
        then, now = state_dict["threads"], torch.get_num_threads()
        if then != now:
            print(
                f"the run had {then} threads so far and goes on with {now}: sums are rounded in another order, so its "
                f"scores will not be to the last digit those of a run with {then} (trainer.num_threads={then})",
                file=sys.stderr,
            )


def check_finite(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    for name, parameter in pl_module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Diverged(f"{name} was not finite after update {trainer.global_step}")


class TrainMetrics(Callback):
    """Logs training, every `every` updates and before any save, beside the number of training tasks seen.

    The accuracy and the norm of the gradient, before any clamp, are computed for these updates alone. On sine the loss
    is the score.
    A row that Lightning logged itself would come after the save of its update, and be lost where a run stops there.
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
        step = trainer.global_step
        if step % self.every == 0:
            now, (then, last) = time.perf_counter(), self.since
            self.since = (now, step)
            row = {
                "tasks": float(step * self.meta_batch_size),
                "train/loss": all_reduce_sum(trainer, outputs["loss"]).item() / self.meta_batch_size,
                "train/gradient_norm": self.norm.item(),
                "train/tasks_per_second": (step - last) * self.meta_batch_size / (now - then),
            }
            if not pl_module.task.regression:
                right = pl_module.scores(outputs["predictions"], batch.query_y).sum()
                row["train/accuracy"] = all_reduce_sum(trainer, right).item() / self.meta_batch_size
            for logger in trainer.loggers:
                logger.log_metrics(row, step)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            pl_module.log("tasks", float(trainer.global_step * self.meta_batch_size), sync_dist=True)
            pl_module.log(
                "step", float(trainer.global_step), sync_dist=True
            )  # which Lightning takes for its own, one less
            self.since = (time.perf_counter(), trainer.global_step)


def all_reduce_sum(trainer: L.Trainer, of_mine: Tensor) -> Tensor:
    """The sum over the processes that share the run."""
    return trainer.strategy.reduce(of_mine.detach().clone(), reduce_op="sum")


def finite(score: Tensor | None) -> float | None:
    return None if score is None or not torch.isfinite(score) else float(score)
