"""What Lightning leaves to a project: validation at step 0, curves by training tasks, and states to keep."""

import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, Timer
from lightning.pytorch.loggers.logger import DummyLogger
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.utils import get_total_norm

from fewshot.episodes import Episode
from fewshot.errors import Diverged, OutOfTime, UserError
from fewshot.files import atomic_open
from fewshot.training import signals

FIELDS = ["tasks", "step", "metric", "value"]


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
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Episode | list[Episode], *_: Any
    ) -> None:
        step, episode = trainer.global_step, batch[-1] if isinstance(batch, list) else batch
        if step % self.every != 0:
            return

        def mean(of_tasks: Tensor) -> float:
            total = trainer.strategy.reduce(of_tasks.detach().clone(), reduce_op="sum")
            return total.item() / self.meta_batch_size

        row = {"tasks": float(step * self.meta_batch_size), "train/loss": mean(outputs["loss"])}
        row["train/gradient_norm"] = outputs.get("gradient_norm", self.norm).item()
        if not pl_module.task.regression:
            row["train/accuracy"] = mean(pl_module.scores(outputs["predictions"], episode.query_y).sum())
        for logger in trainer.loggers:
            logger.log_metrics(row, step)
        pl_module.log("train/loss", row["train/loss"], prog_bar=True, logger=False)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = float(trainer.global_step)  # Lightning would log its own, one less
        pl_module.log_dict({"tasks": step * self.meta_batch_size, "step": step}, sync_dist=True)


class MetricsCsv(DummyLogger):
    """Appends every logged number to `metrics.csv`, one per row: tasks seen, step, metric, value.

    Rows after update `done`, which a resumed run logs again, are dropped, and a row that a kill left
    incomplete. Lightning's CSVLogger replaces the file when a run resumes.
    """

    def __init__(self, path: Path, done: int) -> None:
        super().__init__()
        self.path = path
        if path.exists():
            with path.open(newline="", errors="replace") as old, atomic_open(path) as new:
                rows = [row for row in csv.reader(old) if len(row) == len(FIELDS) and row[1].isdigit()]
                csv.writer(new).writerows([FIELDS, *(row for row in rows if int(row[1]) <= done)])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "tasks" not in metrics:
            return
        tasks = int(metrics["tasks"])
        rows = [(tasks, step, name, value) for name, value in metrics.items() if name != "tasks"]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows if file.tell() else [FIELDS, *rows])


class Checkpoints(Checkpoint):  # Lightning runs these last: the validation is logged by then
    """Saves the best validated weights and the last state of a run; never a diverged one.

    `best.ckpt` holds the best weights from those before the first update on; Lightning's ModelCheckpoint
    leaves these out, and loses the best score where the folder has moved. `last.ckpt` is saved at each
    validation and every `save_every_n_steps` updates. Where a validation is due, only the state after it is
    saved: a run killed during a validation repeats it. Raises Stopped after a signal and OutOfTime after
    `max_time`, both after a save. Prints each validation where there is no bar, as in a log file.
    """

    def __init__(self, folder: Path, cfg: DictConfig, timer: Timer) -> None:
        self.best, self.last, self.timer = folder / "best.ckpt", folder / "last.ckpt", timer
        self.max_time, self.seconds = cfg.trainer.max_time, Timer(cfg.trainer.max_time).time_remaining() or 0
        self.save_every, self.val_every = cfg.trainer.save_every_n_steps, cfg.trainer.val_check_interval
        self.command = "the same command without overwrite=true" if cfg.overwrite else "the same command"
        self.best_score: Any = None  # of a validation
        self.saved = 0  # the update of the last save

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = trainer.global_step
        if self.saved and self.best_score is None:
            raise UserError(f"{self.last} is of an earlier version: use overwrite=true")
        signals.set_training(True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step % self.val_every != 0:
            self.save(trainer, pl_module, due=step % self.save_every == 0 or step == trainer.max_steps)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # of several processes the others are elsewhere in the validation
        if signals.requested and trainer.world_size == 1:
            raise self.ending(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        step, metric = trainer.global_step, f"val/{pl_module.task.metric}"
        score = float(trainer.callback_metrics[metric])
        if trainer.progress_bar_callback is None:
            print(f"update {step} of {trainer.max_steps}: {metric} {score:.4g}", file=sys.stderr)
        if not math.isfinite(score):
            raise Diverged(f"{metric} was {score} after update {step}")
        sign = -1 if pl_module.task.regression else 1
        if step == 0 or sign * score > sign * self.best_score:
            self.best_score = score
            trainer.save_checkpoint(self.best, weights_only=True)
        if step > 0:  # at 0 there is nothing to resume from
            self.save(trainer, pl_module, due=True)

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule, due: bool) -> None:
        """Saves the state where it is due or the run has to end; the first process decides for all."""
        ended = trainer.global_step == trainer.max_steps
        over = not ended and self.timer.time_elapsed("train") >= self.seconds
        by, over = trainer.strategy.broadcast((signals.requested, over))
        if due or by or over:
            for name, parameter in pl_module.named_parameters():
                if not torch.isfinite(parameter).all():
                    raise Diverged(f"{name} was not finite after update {trainer.global_step}")
            trainer.save_checkpoint(self.last)
            self.saved = trainer.global_step
        if by:
            signals.requested = by
            raise self.ending(trainer)
        if over:
            raise OutOfTime(f"trainer.max_time={self.max_time} is over: raise it")

    def ending(self, trainer: L.Trainer) -> signals.Stopped:
        assert signals.requested is not None
        then = f"resumes from update {self.saved} of {trainer.max_steps}" if self.saved else "starts again"
        return signals.Stopped(signals.requested, f"{self.command} {then}")

    def state_dict(self) -> dict[str, Any]:
        """The best score, and the state of the random numbers, which dropout draws."""
        random = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        return {"best_score": self.best_score, "random": random}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]
        on_cpu, *on_gpus = state_dict["random"]
        torch.set_rng_state(on_cpu)
        torch.cuda.set_rng_state_all(on_gpus[: torch.cuda.device_count()])
