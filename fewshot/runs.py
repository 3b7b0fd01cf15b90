"""One run, from its configuration to its result; finished, resumed or refused by the state of its folder."""

import shutil
import sys
import traceback
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
from fewshot.build import announced, make_datamodule, make_learner, make_lightning, make_source
from fewshot.callbacks import Bar, SaveBest, SaveLast, TaskAxis, ValidateFirst, WholeCheckpoints, finite
from fewshot.checks import seconds
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import Diverged, OutOfTime, UserError, out_of_memory
from fewshot.evaluation import across, evaluate, evaluation_config, load_weights
from fewshot.files import write_whole
from fewshot.identity import changed, check_split, keep_split, run_folder
from fewshot.loggers import MetricsCsv, quiet, start_wandb
from fewshot.methods import learner_class
from fewshot.methods.base import MetaLearner
from fewshot.pictures import save_figure, test_figures
from fewshot.results.record import (
    describe,
    read_result,
    scored,
    show,
    surroundings,
    write_json,
    write_scores,
)
from fewshot.similarity import Similarity, measured, similarity_figure
from fewshot.wandb_result import log_result


def train(cfg: DictConfig) -> dict[str, Any]:
    """Trains, validates and tests what `cfg` says and returns the result, which its folder keeps.

    A finished run is shown, not repeated, unless `cfg.force`; an interrupted one goes on where it was saved last.
    """
    quiet()
    folder = run_folder(cfg)
    try:
        refuse_unmeasured(cfg, folder)
        earlier = None if cfg.force else read_result(folder / "result.json")
        if earlier and earlier["status"] in ("finished", "diverged"):  # shown without a lock: it may not be ours
            print(f"already {earlier['status']}; force=true runs it anew", file=sys.stderr)
            show(earlier, folder)
            return with_further_tests(cfg, folder, earlier)
        learner_class(cfg.method.name)
        where = {"accelerator": cfg.trainer.accelerator, "precision": cfg.trainer.precision}
        make_lightning(cfg.method.name, **where, logger=False)  # can it start? told before any work on data
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock").acquire(timeout=0):
            return locked_run(cfg, folder)
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


def locked_run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    definition, metrics = cfg.trainer.similarity, folder / "metrics.csv"
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    source = announced(cfg.data.name, make_source(cfg))
    datamodule = make_datamodule(cfg, source)
    L.seed_everything(cfg.seed, verbose=False)
    learner = make_learner(cfg, source)
    if not cfg.force:
        check_split(folder, source)
    for further in [across(cfg, name) for name in cfg.data.get("test", [])]:
        try:
            make_datamodule(further, make_source(further), ["test"])  # prepared now, or refused
        except UserError as error:
            raise UserError(f"data.test names {further.data.name}: {error}; or leave it out") from error
    if cfg.force:
        for path in folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    keep_split(folder, source)
    description = describe(cfg, learner, changed(cfg))
    print(
        f"{description['method']} on {description['data']}: {description['parameters']} parameters, backbone "
        f"{description['backbone']}, bn {description['bn']}, form {cfg.form}, {cfg.trainer.updates} updates of "
        f"{cfg.method.meta_batch} tasks",
        file=sys.stderr,
    )
    figures: list[tuple[int, float, Figure]] = []
    try:
        outcome = fit_and_test(cfg, folder, learner, datamodule)
    except (UserError, OSError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        traceback.print_exc()
        outcome = {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    if outcome["status"] == "finished":
        try:
            figures = test_figures(learner, datamodule)
            for task, _, figure in figures:
                save_figure(figure, folder / f"test_task_{task}.png")
            if definition != "none":
                save_figure(similarity_figure(metrics, definition), folder / f"similarity-{definition}.png")
        except Exception as error:  # a score does not fall with its pictures
            print(f"not every picture was drawn: {type(error).__name__}: {error}", file=sys.stderr)
    result = {"status": outcome.pop("status")} | description | outcome | {"findings": learner.findings()}
    if wandb.run is not None:
        try:
            log_result(wandb.run, result, figures, cfg.logger.pictures)
        except Exception as error:  # nor with W&B
            print(f"W&B did not take the result: {type(error).__name__}: {error}", file=sys.stderr)
    write_json(folder / "result.json", result)
    show(result, folder)
    return with_further_tests(cfg, folder, result)


def with_further_tests(cfg: DictConfig, folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result with those of the best state on every data set of `data.test` that it does not hold yet."""
    for name in cfg.data.get("test", []) if result["status"] == "finished" else []:
        if name not in result.get("tests", {}):
            told = {"run": str(folder), "data": name, "paths": {k: cfg.paths[k] for k in ("raw", "prepared")}}
            told |= {k: cfg.trainer[k] for k in ("accelerator", "threads", "bar", "eval_batch")}
            evaluate(evaluation_config(told))
    return read_result(folder / "result.json") or result


def fit_and_test(cfg: DictConfig, folder: Path, learner: MetaLearner, datamodule: EpisodicDataModule) -> dict[str, Any]:
    """Fits (from `last.ckpt` if there is one), tests the best validated state, and returns what was measured."""
    best = SaveBest(folder, learner.task.metric, "min" if learner.task.regression else "max")
    timer, every = Timer(), (cfg.trainer.save_every, cfg.trainer.log_every, cfg.trainer.val_every)
    save_last = SaveLast(folder, *every, timer, seconds(cfg.trainer.max_time))
    measures = [Similarity(cfg.trainer.similarity)] if cfg.trainer.similarity != "none" else []
    axis = TaskAxis(cfg.method.meta_batch, cfg.trainer.log_every)
    trainer = make_trainer(cfg, folder, [*measures, ValidateFirst(), axis, timer, best, save_last])
    outcome: dict[str, Any] = {"mean": None, "ci95": None, "tasks": None}
    status, reason = "finished", None
    try:
        state, done = going_on(learner, folder, cfg.method.name)
        MetricsCsv(folder / "metrics.csv", cfg.method.meta_batch).cut(done)
        fit(trainer, learner, datamodule, state, save_last)
        trainer.test(learner, datamodule, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
        tested, tasks, scores = scored(learner)
        write_scores(folder / "test_scores.csv", tasks, scores)
        outcome |= tested
    except OutOfTime:
        status, reason = "timeout", f"trainer.max_time={cfg.trainer.max_time}; evaluate.py tests its best state"
    except Diverged as error:
        status, reason = "diverged", str(error)
    took = timer.time_elapsed("train")
    train_tasks = trainer.global_step * cfg.method.meta_batch
    outcome |= {"status": status, "reason": reason}
    outcome |= {
        "best_step": best_step(best),
        "best_validation": finite(best.best_model_score),
        "train_tasks": train_tasks,
        "train_seconds": took,
        "tasks_per_second": train_tasks / took if took else None,
    }
    return outcome | surroundings(trainer)


def going_on(learner: MetaLearner, folder: Path, method: str) -> tuple[Path | None, int]:
    """The newest state that can be loaded, and its update; None and -1 for a run that begins.

    Raises:
        UserError: before anything is trained, where there are checkpoints and none that a run could go on from.
    """
    damaged: list[UserError] = []
    for path in (folder / "last.ckpt", folder / "previous.ckpt"):  # a kill between two renames leaves the second only
        try:
            done = load_weights(learner, path, method, to_go_on=True) if path.exists() else None
        except UserError as error:
            damaged.append(error)
            continue
        if done is None:
            continue
        try:
            load_weights(learner, folder / "best.ckpt", method)
        except UserError as error:
            raise UserError(f"{error}; force=true runs it anew") from error
        for damage in damaged:
            print(f"{damage}: going on from the state before, of update {done}", file=sys.stderr)
        return path, done
    if damaged:
        raise UserError(f"{damaged[0]}; force=true runs it anew") from damaged[0]
    return None, -1


def fit(
    trainer: L.Trainer, learner: MetaLearner, datamodule: EpisodicDataModule, state: Path | None, save_last: SaveLast
) -> None:
    """Lightning's fit; UserError where `state` holds weights and yet is none to go on from."""
    try:
        trainer.fit(learner, datamodule=datamodule, ckpt_path=state, weights_only=True)
    except (OutOfTime, Diverged):
        raise
    except Exception as error:
        if state is None or save_last.began or out_of_memory(error):
            raise
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(f"{state} is no state that a run can go on from ({line}); force=true runs it anew") from error
    finally:
        stopping.train(False)
    if stopping.asked:  # between the last update and here
        raise save_last.ended(trainer)


def best_step(best: SaveBest) -> int | None:
    if not best.best_model_path:
        return None
    return torch.load(best.best_model_path, map_location="cpu", weights_only=True)["global_step"]


def make_trainer(cfg: DictConfig, folder: Path, callbacks: list[Any]) -> L.Trainer:
    loggers: list[Any] = []
    if cfg.logger.name != "none":
        loggers.append(MetricsCsv(folder / "metrics.csv", cfg.method.meta_batch))
    if cfg.logger.name == "wandb":
        loggers.append(WandbLogger(experiment=start_wandb(cfg, folder)))
    bar = [Bar(refresh_rate=20)] if cfg.trainer.bar else []
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
        callbacks=[*callbacks, *bar],
        enable_progress_bar=cfg.trainer.bar,
        default_root_dir=folder,
        plugins=WholeCheckpoints(),
    )
