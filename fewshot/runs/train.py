"""One run, from its configuration to its result: prepare, fit, test, publish.

Finished, resumed or refused by the state of its folder.
"""

import shutil
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from fewshot import stopping
from fewshot.config.checks import seconds
from fewshot.config.identity import changed, run_folder
from fewshot.config.tested import across
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import Diverged, OutOfTime, UserError, out_of_memory
from fewshot.files import write_whole
from fewshot.methods import learner_class
from fewshot.methods.base import MetaLearner
from fewshot.results.record import NO_SCORES, describe, read_result, show, surroundings, write_json, write_scores
from fewshot.runs.build import announced, make_datamodule, make_learner, make_lightning, make_source
from fewshot.runs.callbacks import Bar, SaveBest, SaveLast, TaskAxis, ValidateFirst, finite
from fewshot.runs.checkpoints import WholeCheckpoints, load_weights, newest_state
from fewshot.runs.evaluate import evaluate_on, test
from fewshot.runs.split import check_split, keep_split
from fewshot.views.loggers import MetricsCsv, quiet, start_wandb
from fewshot.views.pictures import save_figure, test_figures
from fewshot.views.similarity import Similarity, measured, similarity_figure
from fewshot.views.wandb_result import log_result

Drawn = list[tuple[int, float, Figure]]  # number, score and picture of test tasks


@dataclass
class Run:
    """What the steps of a run share."""

    cfg: DictConfig
    folder: Path
    learner: MetaLearner
    datamodule: EpisodicDataModule
    description: dict[str, Any]  # the part of the result that the configuration settles
    wandb: Any  # the W&B run, or None


def train(cfg: DictConfig) -> dict[str, Any]:
    """Trains, validates and tests what `cfg` says and returns the result, which its folder keeps.

    A finished run is shown, not repeated, unless `cfg.force`; an interrupted one goes on where it was saved last.
    """
    quiet()
    folder = run_folder(cfg)
    try:
        refuse_unmeasured(cfg, folder)
        result = None if cfg.force else read_result(folder / "result.json")
        if result and result["status"] in ("finished", "diverged"):  # shown without a lock: it may not be ours
            print(f"already {result['status']}; force=true runs it anew", file=sys.stderr)
            show(result, folder)
            return with_further_tests(cfg, folder, result)
        refuse_impossible(cfg)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock").acquire(timeout=0):
            run = prepare(cfg, folder)
            return with_further_tests(cfg, folder, publish(run, fit_and_test(run)), run.wandb)
    except Timeout:
        raise UserError(f"another process is at work on {folder}: wait for it, or choose another seed") from None
    except OSError as error:
        raise UserError(f"the run of {folder} cannot read or write a file: {error}") from error
    finally:
        wandb.finish()  # the next cell of a multirun has a run of its own


def refuse_unmeasured(cfg: DictConfig, folder: Path) -> None:
    definition = cfg.trainer.similarity
    begun = not cfg.force and (folder / "last.ckpt").exists()
    if begun and definition != "none" and not measured(folder / "metrics.csv", definition):
        raise UserError(
            f"the run of {folder} began without trainer.similarity={definition}, which is measured during training: "
            f"force=true runs it anew, or leave it out"
        )


def refuse_impossible(cfg: DictConfig) -> None:
    """UserError, before any work on data, for a method or a device that is not there."""
    learner_class(cfg.method.name)
    where = {"accelerator": cfg.trainer.accelerator, "precision": cfg.trainer.precision}
    make_lightning(cfg.method.name, **where, logger=False)


def prepare(cfg: DictConfig, folder: Path) -> Run:
    """Data, learner and the run's folder; UserError before anything is deleted or trained."""
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    source = announced(cfg.data.name, make_source(cfg))
    datamodule = make_datamodule(cfg, source)
    L.seed_everything(cfg.seed, verbose=False)
    learner = make_learner(cfg, source)
    if not cfg.force:
        check_split(folder, source)
    prepare_further_tests(cfg)
    if cfg.force:
        for path in folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    keep_split(folder, source)
    description = describe(cfg, learner, changed(cfg))
    what = "{method} on {data}: {parameters} parameters, backbone {backbone}, bn {bn}, form {form}"
    size = f"{cfg.trainer.updates} updates of {cfg.method.meta_batch} tasks"
    print(f"{what.format(**description)}, {size}", file=sys.stderr)
    return Run(cfg, folder, learner, datamodule, description, None)


def prepare_further_tests(cfg: DictConfig) -> None:
    """Their data are prepared now, or refused."""
    for further in [across(cfg, name) for name in cfg.data.get("test", [])]:
        try:
            make_datamodule(further, make_source(further), ["test"])
        except UserError as error:
            raise UserError(f"data.test names {further.data.name}: {error}; or leave it out") from error


def fit_and_test(run: Run) -> dict[str, Any]:
    """What was measured, or why nothing was."""
    try:
        return measure(run)
    except (UserError, OSError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        traceback.print_exc()
        return {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def measure(run: Run) -> dict[str, Any]:
    """Fits, from the newest state if there is one, and tests the best validated state."""
    cfg, task, best = run.cfg, run.learner.task, run.folder / "best.ckpt"
    timer = Timer()
    save_best = SaveBest(run.folder, task.metric, "min" if task.regression else "max")
    trainer = make_trainer(run, timer, save_best)
    status, reason = fit(run, trainer)
    best_step = load_weights(run.learner, best, cfg.method.name) if best.exists() else None
    scores = NO_SCORES
    if status == "finished":
        try:
            scores = test(trainer, run.learner, run.datamodule)
            write_scores(run.folder / "test_scores.csv", scores)
        except Diverged as error:
            status, reason = "diverged", str(error)
    took, tasks = timer.time_elapsed("train"), trainer.global_step * cfg.method.meta_batch
    return scores.summary | {
        "status": status,
        "reason": reason,
        "best_step": best_step,
        "best_validation": finite(save_best.best_model_score),
        "train_tasks": tasks,
        "train_seconds": took,
        "tasks_per_second": tasks / took if took else None,
        **surroundings(trainer),
    }


def make_trainer(run: Run, timer: Timer, save_best: SaveBest) -> L.Trainer:
    cfg, folder = run.cfg, run.folder
    axis = TaskAxis(cfg.method.meta_batch, cfg.trainer.log_every)
    every = (cfg.trainer.save_every, cfg.trainer.log_every, cfg.trainer.val_every)
    save_last = SaveLast(folder, *every, timer, seconds(cfg.trainer.max_time))
    measures = [Similarity(cfg.trainer.similarity)] if cfg.trainer.similarity != "none" else []
    bar = [Bar(refresh_rate=20)] if cfg.trainer.bar else []
    loggers: list[Any] = []
    if cfg.logger.name != "none":
        loggers.append(MetricsCsv(folder / "metrics.csv", cfg.method.meta_batch))
    if cfg.logger.name == "wandb":
        run.wandb = start_wandb(cfg, folder)
        loggers.append(WandbLogger(experiment=run.wandb))
    return make_lightning(
        cfg.method.name,
        accelerator=cfg.trainer.accelerator,
        precision=cfg.trainer.precision,
        max_steps=cfg.trainer.updates,
        val_check_interval=cfg.trainer.val_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=0,  # TaskAxis logs
        logger=loggers,
        callbacks=[*measures, ValidateFirst(), axis, timer, save_best, save_last, *bar],
        enable_progress_bar=cfg.trainer.bar,
        default_root_dir=folder,
        plugins=WholeCheckpoints(),
    )


def fit(run: Run, trainer: L.Trainer) -> tuple[str, str | None]:
    """Status and reason; UserError where a state holds weights and yet is none to go on from."""
    cfg = run.cfg
    [save_last] = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, SaveLast)]
    state, done = newest_state(run.learner, run.folder, cfg.method.name)
    MetricsCsv(run.folder / "metrics.csv", cfg.method.meta_batch).cut(done)
    try:
        trainer.fit(run.learner, datamodule=run.datamodule, ckpt_path=state, weights_only=True)
    except OutOfTime:
        return "timeout", f"trainer.max_time={cfg.trainer.max_time}; evaluate.py tests its best state"
    except Diverged as error:
        return "diverged", str(error)
    except Exception as error:
        if state is None or save_last.began or out_of_memory(error):
            raise
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(f"{state} is no state that a run can go on from ({line}); force=true runs it anew") from error
    finally:
        stopping.train(False)
    if stopping.asked:  # between the last update and here
        raise save_last.ended(trainer)
    return "finished", None


def publish(run: Run, outcome: dict[str, Any]) -> dict[str, Any]:
    """Draws, logs, keeps and shows the result. A score does not fall with its pictures, nor with W&B."""
    figures: Drawn = []
    if outcome["status"] == "finished":
        try:
            figures = draw(run)
        except Exception as error:
            print(f"not every picture was drawn: {type(error).__name__}: {error}", file=sys.stderr)
    result = {"status": outcome.pop("status")} | run.description | outcome | {"findings": run.learner.findings()}
    if run.wandb is not None:
        try:
            log_result(run.wandb, result, figures, run.cfg.logger.pictures)
        except Exception as error:
            print(f"W&B did not take the result: {type(error).__name__}: {error}", file=sys.stderr)
    write_json(run.folder / "result.json", result)
    show(result, run.folder)
    return result


def draw(run: Run) -> Drawn:
    """Pictures of test tasks and, if it was measured, of the similarities, in the run's folder."""
    figures = test_figures(run.learner, run.datamodule)
    for task, _, figure in figures:
        save_figure(figure, run.folder / f"test_task_{task}.png")
    if (definition := run.cfg.trainer.similarity) != "none":
        figure = similarity_figure(run.folder / "metrics.csv", definition)
        save_figure(figure, run.folder / f"similarity-{definition}.png")
    return figures


def with_further_tests(cfg: DictConfig, folder: Path, result: dict[str, Any], run: Any = None) -> dict[str, Any]:
    """The result with those of the best state on every data set of `data.test` that it does not hold yet."""
    missing = [name for name in cfg.data.get("test", []) if name not in result.get("tests", {})]
    for name in missing if result["status"] == "finished" else []:
        evaluate_on(folder, cfg, across(cfg, name), entry=name, run=run)
    return read_result(folder / "result.json") or result
