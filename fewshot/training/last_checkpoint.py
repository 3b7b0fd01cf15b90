"""The state that a run resumes from, and the end of a run by a signal or its time limit."""

import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, Timer

from fewshot.errors import Diverged, OutOfTime
from fewshot.training import signals
from fewshot.training.distributed import all_reduce_max, all_reduce_sum
from fewshot.training.signals import Stopped


class LastCheckpoint(Checkpoint):  # Lightning runs these last and in order: the best state is known by then
    """Saves the state at each validation and every `save_every_n_steps` updates; never a diverged one.

    Where a validation is due, only the state after it is saved: a run killed during a validation repeats it.

    Raises:
        Stopped: a signal has come. OutOfTime: `seconds` are over. Both after a save, and without a trace in
            what is logged, so that the run ends as one that was never stopped.
    """

    def __init__(
        self,
        folder: Path,
        save_every_n_steps: int,
        log_every_n_steps: int,
        val_check_interval: int,
        timer: Timer,
        seconds: float,
        resume: str,
    ) -> None:
        self.path = folder / "last.ckpt"
        self.save_every, self.log_every, self.val_every = (
            save_every_n_steps,
            log_every_n_steps,
            val_check_interval,
        )
        self.timer, self.seconds, self.resume = timer, seconds, resume
        self.restored, self.saved = False, 0  # whether the state has been loaded; the update of the last save

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.restored, self.saved = True, trainer.global_step
        signals.set_training(True)
        if self.saved and self.ends(trainer):
            raise self.ending(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        step = trainer.global_step
        if step % self.log_every == 0 or step % self.save_every == 0:
            loss = all_reduce_sum(trainer, outputs["loss"])
            if not torch.isfinite(loss):
                raise Diverged(f"the loss was {loss.item()} at update {step}")
        ends = self.ends(trainer)
        if step % self.val_every != 0 and (step % self.save_every == 0 or step == trainer.max_steps or ends):
            self.save(trainer, pl_module, ends)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # of several processes the others are elsewhere in the validation
        if trainer.state.fn == "fit" and signals.requested and trainer.world_size == 1:
            raise self.ending(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and trainer.global_step > 0:  # at 0 there is nothing to resume from
            self.save(trainer, pl_module, self.ends(trainer))

    def ends(self, trainer: L.Trainer) -> bool:
        """Whether a signal has come, to any process, or there is no time left for what there is to do."""
        over = self.timer.time_elapsed("train") >= self.seconds and trainer.global_step < trainer.max_steps
        reason = all_reduce_max(float(signals.requested or over / 2))  # the number of a signal, or 1/2
        if reason >= 1:
            signals.requested = signal.Signals(int(reason))
        return reason > 0

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule, ends: bool) -> None:
        for name, parameter in pl_module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise Diverged(f"{name} was not finite after update {trainer.global_step}")
        trainer.save_checkpoint(self.path)
        self.saved = trainer.global_step
        if ends:
            raise self.ending(trainer)

    def ending(self, trainer: L.Trainer) -> BaseException:
        by = signals.requested
        if by is None:
            return OutOfTime()
        where = f"resumes from update {self.saved} of {trainer.max_steps}" if self.saved else "starts again"
        return Stopped(by, f"stopped by {by.name}: {self.resume} {where}")

    def state_dict(self) -> dict[str, Any]:
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"threads": torch.get_num_threads(), "random": [torch.get_rng_state(), *on_gpus]}  # of dropout

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        on_cpu, *on_gpus = state_dict["random"]
        torch.set_rng_state(on_cpu)
        if len(on_gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(on_gpus)
        then, now = state_dict["threads"], torch.get_num_threads()
        if then != now:
            print(
                f"the run had {then} threads so far and resumes with {now}: sums are rounded in another "
                f"order, so its last digits will differ from those of a run with trainer.num_threads={then}",
                file=sys.stderr,
            )
