"""One run: a finished one is shown, an interrupted one resumes where it was saved last."""

import math
import sys
from pathlib import Path
from typing import Any

import lightning as L
from filelock import FileLock, Timeout
from omegaconf import DictConfig

from fewshot.config.run_id import further_tests, protocol, run_folder, table_name
from fewshot.config.settings import check
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import Diverged, OutOfTime, UserError, optional
from fewshot.methods import MetaLearner
from fewshot.results.environment import reset_peak_memory
from fewshot.results.record import Result, describe, name_of_test, read_result
from fewshot.training import signals
from fewshot.training.build import assemble, make_datamodule, make_loggers
from fewshot.training.distributed import processes
from fewshot.training.evaluate import record, run_test
from fewshot.training.folder import extend, finished, load_weights, start_folder


def run(cfg: DictConfig) -> Result:
    """Trains, validates and tests the learner that `cfg` describes; the result, as the run's folder keeps it.

    Raises UserError for a wrong setting or a folder in use, Diverged or OutOfTime for a run without a score.
    """
    check(cfg)
    folder = run_folder(cfg)
    result = finished(cfg, folder)  # without a lock: the folder may not be ours
    if result is None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock").acquire(timeout=3):
                result = finished(cfg, folder) or train(cfg, folder)  # another process may have ended it
        except Timeout:
            raise UserError(f"another process is working on {folder}") from None
    if result["status"] != "finished":
        raise (OutOfTime if result["status"] == "timeout" else Diverged)(result["reason"])
    run_further_tests(cfg, folder, result["best_step"])
    return result


def train(cfg: DictConfig, folder: Path) -> Result:
    """Fits from the last state, if there is one, tests the best state and records the result."""
    datamodule, learner, trainer = assemble(cfg, folder)
    for tested in further_tests(cfg):
        make_datamodule(tested, "test")  # an error now, not after the training
    start_folder(cfg, folder, datamodule.source)
    result = describe(cfg, cfg, learner)
    if not cfg.overwrite and not (folder / "last.ckpt").exists():
        extend(cfg, folder, learner, trainer)
    reset_peak_memory()
    with processes(cfg.trainer.devices, train_in_process, cfg, folder):
        result |= fit_and_test(cfg, folder, datamodule, learner, trainer)
    with optional("interpretability()"):
        metrics = learner.interpretability().items()
        result["interpretability"] = {name: float(value) for name, value in metrics if math.isfinite(value)}
    record(cfg, folder, trainer, result, pictures=True, predictions=cfg.predictions)
    return result


def train_in_process(cfg: DictConfig, folder: Path) -> None:
    """What a further process of `trainer.devices` does: its share of the tasks. It keeps nothing."""
    cfg.trainer.enable_progress_bar, cfg.logger = False, {"name": "none"}
    fit_and_test(cfg, folder, *assemble(cfg, folder))


def fit_and_test(
    cfg: DictConfig, folder: Path, datamodule: EpisodicDataModule, learner: MetaLearner, trainer: L.Trainer
) -> Result:
    """Trains from the last state in `folder`, tests the best one, and returns how that ended."""
    saves: Any = trainer.checkpoint_callback
    state, done = None, -1
    if saves.last.exists():
        load_weights(learner, saves.best)
        state, done = saves.last, load_weights(learner, saves.last)
        print(f"resumes at update {done} of {cfg.trainer.max_steps}", file=sys.stderr)
    trainer.loggers = make_loggers(cfg, folder, done)
    result: Result = dict.fromkeys(("mean", "ci95", "tasks", "reason", "best_step"))
    result |= {"status": "finished", "baselines": {}, "warnings": [], "interpretability": {}}
    try:
        if learner.is_trained:
            trainer.fit(learner, datamodule=datamodule, ckpt_path=state, weights_only=True)
        else:
            trainer.validate(learner, datamodule=datamodule, verbose=False)
    except (OutOfTime, Diverged) as error:
        result |= {"status": error.status, "reason": str(error)}
    finally:
        signals.set_training(False)
    if signals.requested:  # between the last update and here
        raise saves.ending(trainer)
    tasks, took = trainer.global_step * cfg.method.meta_batch_size, saves.timer.time_elapsed("train")
    speed = tasks / took if took else None
    result |= {"train_tasks": tasks, "train_seconds": took, "tasks_per_second": speed}
    result |= {"update": learner.update_kind, "best_validation": saves.best_score}
    if saves.best.exists():
        result["best_step"] = load_weights(learner, saves.best)
    if result["status"] == "finished":
        trainer.test(learner, datamodule=datamodule, verbose=False)
    return result


def run_further_tests(cfg: DictConfig, folder: Path, best_step: int) -> None:
    """The tests on the data sets of `data.test`, unless the folder holds those of this state."""
    for tested in further_tests(cfg):
        name = name_of_test(protocol(tested) | {"data": table_name(tested)})
        if (read_result(folder / "evaluations" / name) or {}).get("best_step") != best_step:
            with optional(f"the test {name}", Diverged):
                run_test(folder, cfg, tested)
