"""Lightning's fit, from the last state if there is one, and the test of the best state."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import Diverged, OutOfTime, UserError, brief
from fewshot.methods import MetaLearner
from fewshot.plots.similarity import Similarity
from fewshot.results.environment import environment, reset_peak_memory
from fewshot.results.predictions import predictions_of
from fewshot.results.record import NO_SCORES, Scores, scored
from fewshot.training import signals
from fewshot.training.build import assemble, make_trainer
from fewshot.training.callbacks import PrintValidation, ProgressBar, TrainMetrics, ValidateFirst
from fewshot.training.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint, load_weights
from fewshot.training.compiled import compiled
from fewshot.training.distributed import processes, strategy_settings
from fewshot.training.extend import extend
from fewshot.training.loggers import MetricsCsv, quiet, start_wandb

PASSED_ON = (  # to Lightning's Trainer as they are
    *("gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark", "profiler"),
    *("detect_anomaly", "enable_model_summary", "fast_dev_run"),
)


@dataclass
class Tested:
    """How a training ended, and the test of its best state."""

    outcome: dict[str, Any]
    scores: Scores = NO_SCORES
    predictions: pd.DataFrame | None = None
    wandb: Any = None


def fit_and_test(
    cfg: DictConfig, folder: Path, datamodule: EpisodicDataModule, learner: MetaLearner, trainer: L.Trainer
) -> Tested:
    """Trains from the last state in `folder`, in `trainer.devices` processes, and tests the best state."""
    reset_peak_memory()
    wandb = start_wandb(cfg, folder) if cfg.logger.name == "wandb" else None
    if not cfg.overwrite and not (folder / "last.ckpt").exists():
        extend(cfg, folder, datamodule, learner, trainer)
    settings = OmegaConf.to_container(cfg, resolve=True)
    with processes(cfg.trainer.devices, fit_in_process, settings, folder):
        tested = fit(cfg, folder, datamodule, learner, trainer, wandb)
    tested.wandb = wandb
    tested.outcome |= environment(trainer)
    return tested


def fit_in_process(settings: dict[str, Any], folder: Path) -> None:
    """What a further process does: the same on its own share of the tasks, and it keeps nothing."""
    quiet()
    cfg = OmegaConf.create(settings)
    cfg.trainer.enable_progress_bar, cfg.logger = False, {"name": "none"}
    datamodule, learner = assemble(cfg)
    fit(cfg, folder, datamodule, learner, run_trainer(cfg, folder, learner))


def fit(
    cfg: DictConfig,
    folder: Path,
    datamodule: EpisodicDataModule,
    learner: MetaLearner,
    trainer: L.Trainer,
    wandb: Any = None,
) -> Tested:
    state, done = None, -1
    if (folder / "last.ckpt").exists():
        state = folder / "last.ckpt"
        load_weights(learner, folder / "best.ckpt", cfg.method.name)
        done = load_weights(learner, state, cfg.method.name)
    trainer.loggers = make_loggers(cfg, folder, wandb, done)
    timer, best, last = (find(trainer, kind) for kind in (Timer, BestCheckpoint, LastCheckpoint))
    if trainer.is_global_zero:
        MetricsCsv(folder / "metrics.csv", cfg.method.meta_batch_size).cut(done)
    if state is not None:
        print(f"resumes at update {done} of {cfg.trainer.max_steps}", file=sys.stderr)
    status, reason, scores = "finished", None, NO_SCORES
    try:
        with compiled(learner, cfg, trainer.strategy.root_device):
            trainer.fit(learner, datamodule=datamodule, ckpt_path=state, weights_only=True)
    except OutOfTime:
        status = "timeout"
        limit = f"trainer.max_time={cfg.trainer.max_time}"
        reason = f"{limit} is over: raise it to resume; evaluate.py tests the best state"
    except Diverged as error:
        status, reason = "diverged", str(error)
    except Exception as error:
        if state is None or last.saved:
            raise
        raise UserError(
            f"{state} cannot be resumed ({brief(error, 160)}); overwrite=true trains from scratch"
        ) from error
    finally:
        signals.set_training(False)
    if signals.requested:  # between the last update and here
        raise last.ending(trainer)
    best_path = folder / "best.ckpt"
    best_step = load_weights(learner, best_path, cfg.method.name) if best_path.exists() else None
    predictions = None
    if status == "finished":
        try:
            trainer.test(learner, datamodule=datamodule, verbose=False)
            scores = scored(learner)
            predictions = predictions_of(learner, datamodule) if cfg.predictions else None
        except Diverged as error:
            status, reason = "diverged", str(error)
    took, tasks = timer.time_elapsed("train"), trainer.global_step * cfg.method.meta_batch_size
    outcome = {
        "status": status,
        "reason": reason,
        "best_step": best_step,
        "best_validation": best.best_score,
        "train_tasks": tasks,
        "train_seconds": took,
        "tasks_per_second": tasks / took if took else None,
        "compiled": learner.compiled,
        "captured": learner.captured,
    }
    return Tested(outcome, scores, predictions)


def find(trainer: L.Trainer, kind: type[Any]) -> Any:
    """The trainer's callback of a kind."""
    [found] = [callback for callback in trainer.callbacks if type(callback) is kind]  # type: ignore[attr-defined]
    return found


def run_trainer(cfg: DictConfig, folder: Path, learner: MetaLearner) -> L.Trainer:
    """Lightning's trainer with what it leaves to a project."""
    settings, timer = cfg.trainer, Timer()
    bar = settings.enable_progress_bar and sys.stdout.isatty()
    callbacks: list[Callback] = []
    if settings.similarity != "none":
        callbacks.append(Similarity(settings.similarity))
    callbacks += [
        ValidateFirst(),
        TrainMetrics(cfg.method.meta_batch_size, settings.log_every_n_steps),
        timer,
        BestCheckpoint(folder, learner.task.metric),
        LastCheckpoint(folder, cfg, timer),
        ProgressBar(refresh_rate=20) if bar else PrintValidation(),
    ]
    distributed = strategy_settings(settings.devices)
    distributed["plugins"].append(AtomicCheckpointIO())
    return make_trainer(
        cfg.method.name,
        accelerator=settings.accelerator,
        precision=settings.precision,
        max_steps=settings.max_steps,
        val_check_interval=settings.val_check_interval,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=0,  # TrainMetrics logs
        logger=False,  # `fit` sets them
        callbacks=callbacks,
        enable_progress_bar=bar,
        default_root_dir=folder,
        **distributed,
        **{name: settings[name] for name in PASSED_ON},
    )


def make_loggers(cfg: DictConfig, folder: Path, wandb: Any, done: int) -> list[Any]:
    """metrics.csv, and W&B or TensorBoard, as far as the configuration wants them.

    TensorBoard drops what was logged after update `done`: it is logged again.
    """
    if cfg.logger.name == "none":
        return []
    loggers: list[Any] = [MetricsCsv(folder / "metrics.csv", cfg.method.meta_batch_size)]
    if wandb is not None:
        loggers.append(WandbLogger(experiment=wandb))
    if cfg.logger.name == "tensorboard":
        loggers.append(TensorBoardLogger(folder, "", "tensorboard", purge_step=done + 1, flush_secs=1))
    return loggers
