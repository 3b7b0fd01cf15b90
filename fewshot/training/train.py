"""One run, from its configuration to its result: prepare, fit, test, publish.

Finished, resumed or refused by the state of its folder.
"""

import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Timer
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from fewshot import signals
from fewshot.config.run_id import run_folder
from fewshot.errors import Busy, Diverged, LostProcess, UserError, brief, out_of_memory
from fewshot.memory import forget_peak_memory
from fewshot.methods.base import MetaLearner
from fewshot.plots.confusion import confusion_figure
from fewshot.plots.curves import learning_curve, read_curves
from fewshot.plots.episodes import save_figure, test_figures
from fewshot.plots.similarity import similarity_figure
from fewshot.results.diagnostics import diagnostics
from fewshot.results.environment import environment
from fewshot.results.predictions import predictions_of, show_predictions, write_predictions
from fewshot.results.record import (
    read_result,
    show,
    title_of,
    write_json,
    write_scores,
)
from fewshot.training.callbacks import BestCheckpoint, finite
from fewshot.training.checkpoints import last_state, load_weights
from fewshot.training.distributed import together
from fewshot.training.evaluate import evaluate_on, test
from fewshot.training.extend import extend
from fewshot.training.finished import kept_result, show_kept, untested
from fewshot.training.fit import fit, make_trainer
from fewshot.training.loggers import end_wandb, quiet, staged_in
from fewshot.training.prepare import Run, assemble, prepare, refuse_impossible

Drawn = list[tuple[int, float, Figure]]  # number, score and picture of test tasks


def train(cfg: DictConfig) -> dict[str, Any]:
    """Trains, validates and tests what `cfg` says and returns the result, which its folder keeps.

    A finished run is shown, not repeated, unless `cfg.overwrite`; an interrupted one goes on where it was saved last.
    """
    quiet()
    folder = run_folder(cfg)
    try:
        if result := kept_result(cfg, folder):
            show_kept(cfg, result, folder)  # without a lock: it may not be ours
            return with_further_tests(cfg, folder, result)
        refuse_impossible(cfg)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock").acquire(timeout=3), staged_in(folder):
            if result := kept_result(cfg, folder):  # of another process, that ended meanwhile
                return with_further_tests(cfg, folder, result)
            run = prepare(cfg, folder)
            return with_further_tests(cfg, folder, publish(run, fit_and_test(run)), run.wandb)
    except Timeout:
        raise Busy(folder) from None
    except OSError as error:
        raise UserError(
            f"the run of {folder} cannot read or write a file: {error}; {signals.again()} goes on when it can"
        ) from error
    finally:
        end_wandb()


def fit_and_test(run: Run) -> dict[str, Any]:
    """What was measured, or why nothing was."""
    try:
        return measure(run)
    except (UserError, OSError):
        raise
    except LostProcess as error:
        return {"status": "failed", "reason": f"{error}: {signals.again()} goes on from the state saved last"}
    except Exception as error:
        if out_of_memory(error):
            raise
        traceback.print_exc()
        return {"status": "failed", "reason": brief(error, 300)}


def measure(run: Run) -> dict[str, Any]:
    """Fits, from the newest state if there is one, and tests the best validated state."""
    cfg = run.cfg
    forget_peak_memory()
    if not cfg.overwrite and not (run.folder / "last.ckpt").exists():
        extend(run)
    state, done = last_state(run.folder)
    with together(
        cfg.trainer.devices, share, OmegaConf.to_container(cfg, resolve=True), run.folder, state, done
    ):
        trainer, outcome = fit_and_test_from(run, state, done)
    if outcome["status"] == "finished":
        write_scores(run.folder / "test_scores.csv", run.scores)
        if cfg.predictions:
            run.predictions = predictions_of(run.learner, run.datamodule)
            write_predictions(run.folder / "predictions.csv", run.predictions)
    return run.scores.summary | outcome | environment(trainer)


def fit_and_test_from(run: Run, state: Path | None, done: int) -> tuple[L.Trainer, dict[str, Any]]:
    """What each process of a run does; with the trainer, how it ended and what it took."""
    cfg, task, best = run.cfg, run.learner.task, run.folder / "best.ckpt"
    timer, save_best = Timer(), BestCheckpoint(run.folder, task.metric, "min" if task.regression else "max")
    trainer = make_trainer(run, timer, save_best, done)
    status, reason = fit(run, trainer, state, done)
    best_step = load_weights(run.learner, best, cfg.method.name) if best.exists() else None
    if status == "finished":
        try:
            run.scores = test(trainer, run.learner, run.datamodule)
        except Diverged as error:
            status, reason = "diverged", str(error)
    took, tasks = timer.time_elapsed("train"), trainer.global_step * cfg.method.meta_batch_size
    return trainer, {
        "status": status,
        "reason": reason,
        "best_step": best_step,
        "best_validation": finite(save_best.best_model_score),
        "train_tasks": tasks,
        "train_seconds": took,
        "tasks_per_second": tasks / took if took else None,
        "compiled": run.learner.compiled,
        "captured": run.learner.captured,
    }


def share(
    ready: Callable[[], None], settings: dict[str, Any], folder: Path, state: Path | None, done: int
) -> None:
    """What a further process does: the same on other tasks, and keeps nothing."""
    quiet()
    cfg = OmegaConf.create(settings)
    cfg.trainer.enable_progress_bar, cfg.logger = False, {"name": "none"}
    datamodule, learner = assemble(cfg)
    ready()
    fit_and_test_from(Run(cfg, folder, learner, datamodule, {}), state, done)


def publish(run: Run, outcome: dict[str, Any]) -> dict[str, Any]:
    """Draws, logs, keeps and shows the result. A score does not fall with its pictures, nor with W&B."""
    figures: Drawn = []
    if outcome["status"] == "finished":
        try:
            figures = draw(run)
        except Exception as error:
            print(f"not every picture was drawn: {type(error).__name__}: {error}", file=sys.stderr)
    result = (
        {"status": outcome.pop("status")}
        | run.description
        | outcome
        | {"interpretability": interpretability(run.learner)}
    )
    result["warnings"] = doubts(result, run.folder / "metrics.csv")
    if run.wandb is not None:
        from fewshot.training.wandb_log import log_checkpoint, log_predictions, log_result, log_tasks

        try:
            log_result(run.wandb, result, figures, run.cfg.logger.pictures)
            log_tasks(run.wandb, "test", run.scores)
            log_predictions(run.wandb, "test", run.predictions)
            if run.cfg.logger.checkpoint and result["status"] == "finished":
                log_checkpoint(run.wandb, run.folder / "best.ckpt", result)
        except Exception as error:
            print(f"W&B did not take the result: {type(error).__name__}: {error}", file=sys.stderr)
    write_json(run.folder / "result.json", result)
    show(result, run.folder)
    show_predictions(run.predictions)
    return result


def doubts(result: dict[str, Any], metrics: Path) -> list[str]:
    try:
        return diagnostics(result, metrics)
    except Exception as error:
        print(
            f"what may be doubted of this run was not found out: {type(error).__name__}: {error}",
            file=sys.stderr,
        )
        return []


def interpretability(learner: MetaLearner) -> dict[str, float]:
    """What a learner tells of itself, as numbers; a learner that fails at it keeps its score."""
    try:
        told = {
            " ".join(str(name).split()): float(value) for name, value in learner.interpretability().items()
        }
        if lost := [name for name, value in told.items() if not math.isfinite(value)]:
            print(
                f"interpretability() of {type(learner).__name__} that are no finite numbers: {', '.join(lost)}",
                file=sys.stderr,
            )
        return {name: value for name, value in told.items() if math.isfinite(value)}
    except Exception as error:
        print(
            f"interpretability() of {type(learner).__name__} failed: {type(error).__name__}: {error}",
            file=sys.stderr,
        )
        return {}


def draw(run: Run) -> Drawn:
    """Pictures of test tasks and, if it was measured, of the similarities, in the run's folder."""
    cfg, metrics, title = run.cfg, run.folder / "metrics.csv", title_of(run.description)
    tested = dict(
        zip(run.scores.tasks, run.scores.values, strict=True)
    )  # where the test was made, and as precisely
    figures = [
        (task, tested.get(task, score), figure)
        for task, score, figure in test_figures(run.learner, run.datamodule, title=title)
    ]
    for task, _, figure in figures:
        save_figure(figure, run.folder / f"test_task_{task}")
    if run.predictions is not None and not run.learner.task.regression:
        save_figure(confusion_figure(run.predictions, title), run.folder / "confusion")
    if metrics.exists():
        save_figure(learning_curve(metrics, title), run.folder / "learning_curve")
    if (definition := cfg.trainer.similarity) != "none":
        figure = similarity_figure([read_curves(metrics)], definition, title)
        save_figure(figure, run.folder / f"similarity-{definition}")
    return figures


def with_further_tests(
    cfg: DictConfig, folder: Path, result: dict[str, Any], run: Any = None
) -> dict[str, Any]:
    """The result with those of the best state on every data set of `data.test` that it does not hold yet."""
    for name, further in untested(cfg, result).items():
        evaluate_on(folder, cfg, further, entry=name, predictions=cfg.predictions, run=run)
    return read_result(folder / "result.json") or result
