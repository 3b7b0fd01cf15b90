"""The second step of a run: Lightning's fit, begun or gone on with, and how it ended."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from fewshot import signals
from fewshot.config.settings import seconds
from fewshot.errors import Diverged, OutOfTime, UserError, brief
from fewshot.plots.similarity import Similarity
from fewshot.training import distributed
from fewshot.training.build import make_lightning
from fewshot.training.callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    PrintValidation,
    ProgressBar,
    TrainMetrics,
    ValidateFirst,
)
from fewshot.training.checkpoints import AtomicCheckpointIO
from fewshot.training.compiled import compiled
from fewshot.training.loggers import MetricsCsv, start_wandb
from fewshot.training.prepare import Run


def make_trainer(run: Run, timer: Timer, save_best: BestCheckpoint, done: int) -> L.Trainer:
    """Lightning's trainer with what it leaves to a project, for a run that goes on after update `done`."""
    cfg = run.cfg
    every = (cfg.trainer.save_every_n_steps, cfg.trainer.log_every_n_steps, cfg.trainer.val_check_interval)
    save_last = LastCheckpoint(run.folder, *every, timer, seconds(cfg.trainer.max_time))
    axis = TrainMetrics(cfg.method.meta_batch_size, cfg.trainer.log_every_n_steps)
    measures = [Similarity(cfg.trainer.similarity)] if cfg.trainer.similarity != "none" else []
    summed = [distributed.SumGradients()] if cfg.trainer.devices > 1 else []
    bar = cfg.trainer.enable_progress_bar and sys.stdout.isatty()  # a log file has lines
    shown = ProgressBar(refresh_rate=20) if bar else PrintValidation()
    return make_lightning(
        cfg.method.name,
        accelerator=cfg.trainer.accelerator,
        precision=cfg.trainer.precision,
        max_steps=cfg.trainer.max_steps,
        val_check_interval=cfg.trainer.val_check_interval,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=0,  # TrainMetrics logs
        logger=make_loggers(run, done),
        callbacks=[*summed, *measures, ValidateFirst(), axis, timer, save_best, save_last, shown],
        enable_progress_bar=bar,
        default_root_dir=run.folder,
        **distributed.settings(cfg.trainer.devices, AtomicCheckpointIO()),
        **cfg.trainer.lightning,
    )


def make_loggers(run: Run, done: int) -> list[Any]:
    """metrics.csv, and W&B or TensorBoard, as far as they are asked for; starts the W&B run.

    TensorBoard drops what was logged after update `done`: it is logged again.
    """
    cfg = run.cfg
    if cfg.logger.name == "none":
        return []
    loggers: list[Any] = [MetricsCsv(run.folder / "metrics.csv", cfg.method.meta_batch_size)]
    if cfg.logger.name == "wandb":
        run.wandb = run.wandb or start_wandb(cfg, run.folder)
        loggers.append(WandbLogger(experiment=run.wandb))
    if cfg.logger.name == "tensorboard":
        loggers.append(TensorBoardLogger(run.folder, "", "tensorboard", purge_step=done + 1, flush_secs=1))
    return loggers


def fit(run: Run, trainer: L.Trainer, state: Path | None, done: int) -> tuple[str, str | None]:
    """Status and reason.

    Args:
        state, done: where it resumes, from `last_state`.

    Raises:
        UserError: it cannot resume from `state`.
    """
    cfg = run.cfg
    [save_last] = [
        callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)
    ]
    if distributed.is_first():
        MetricsCsv(run.folder / "metrics.csv", cfg.method.meta_batch_size).cut(done)
    if state is not None:
        print(f"goes on at update {done} of {cfg.trainer.max_steps}", file=sys.stderr)
    try:
        with compiled(run.learner, cfg, trainer.strategy.root_device):
            trainer.fit(run.learner, datamodule=run.datamodule, ckpt_path=state, weights_only=True)
    except OutOfTime:
        return (
            "timeout",
            f"trainer.max_time={cfg.trainer.max_time} is over, raise it to go on{signals.without_force()}; "
            "evaluate.py tests its best state",
        )
    except Diverged as error:
        return "diverged", str(error)
    except Exception as error:
        if state is None or save_last.restored:
            raise
        raise UserError(
            f"the run cannot resume from {state} ({brief(error, 160)}); overwrite=true trains from scratch"
        ) from error
    finally:
        signals.train(False)
    if signals.asked:  # between the last update and here
        raise save_last.ended(trainer)
    return "finished", None
