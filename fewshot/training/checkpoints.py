"""The best and the last state of a run: complete or not there, and loaded without executing anything."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, Timer
from omegaconf import DictConfig

from fewshot.config.settings import seconds
from fewshot.errors import Diverged, OutOfTime, UserError, brief
from fewshot.files import atomic_open
from fewshot.methods.base import MetaLearner
from fewshot.training import signals


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target; Lightning moves a file from another folder, and a copy is not atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_open(Path(path), "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's word for a file that takes no more
                raise OSError(f"{path} cannot be written: {brief(error, 160)}") from error


def load_weights(learner: MetaLearner, path: Path, method: str) -> int:
    """Loads the weights of a checkpoint, or raises UserError; returns the update that they are from."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        learner.load_state_dict(checkpoint["state_dict"])
        return int(checkpoint["global_step"])
    except Exception as error:
        why = brief(error, 160)
        raise UserError(f"{path} cannot be loaded as weights of method={method}: {why}") from error


class Checkpoints(Checkpoint):  # Lightning runs these last: the validation is logged by then
    """Saves the best validated weights and the last state of a run; never a diverged one.

    `best.ckpt` holds the best weights from those before the first update on; Lightning's ModelCheckpoint
    leaves these out, and loses the best score where the folder has moved. `last.ckpt` is saved at each
    validation and every `save_every_n_steps` updates. Where a validation is due, only the state after it is
    saved: a run killed during a validation repeats it. Raises Stopped after a signal and OutOfTime after
    `max_time`, both after a save.
    """

    def __init__(self, folder: Path, cfg: DictConfig, timer: Timer) -> None:
        self.best, self.last, self.timer = folder / "best.ckpt", folder / "last.ckpt", timer
        self.max_time, self.seconds = cfg.trainer.max_time, seconds(cfg.trainer.max_time)
        self.save_every, self.val_every = cfg.trainer.save_every_n_steps, cfg.trainer.val_check_interval
        self.command = "the same command" + " without overwrite=true" * cfg.overwrite
        self.best_score: Any = None  # of a validation
        self.saved = 0  # the update of the last save

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = trainer.global_step
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
        metric = f"val/{pl_module.task.metric}"
        score = float(trainer.callback_metrics[metric])
        if not math.isfinite(score):
            raise Diverged(f"{metric} was {score} after update {trainer.global_step}")
        sign = -1 if pl_module.task.regression else 1
        if trainer.global_step == 0 or sign * score > sign * self.best_score:
            self.best_score = score
            trainer.save_checkpoint(self.best, weights_only=True)
        if trainer.global_step > 0:  # at 0 there is nothing to resume from
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
