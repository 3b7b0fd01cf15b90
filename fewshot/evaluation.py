"""Tests the best validated state of a run's folder, which may be a stranger's: its files are data, not code."""

import re
import sys
from pathlib import Path
from typing import Any

import torch
import wandb
import yaml
from filelock import FileLock
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fewshot.build import announced, make_datamodule, make_learner, make_lightning, make_source
from fewshot.checks import check, flatten
from fewshot.cli import CONF, composed
from fewshot.data.images import full_name
from fewshot.errors import Diverged, UserError
from fewshot.identity import changed, check_split
from fewshot.inner_pictures import draw_all
from fewshot.loggers import quiet, start_wandb
from fewshot.methods import learner_class
from fewshot.methods.base import MetaLearner
from fewshot.results.protocol import Protocol
from fewshot.results.record import describe, read_result, scored, show, surroundings, write_json, write_scores
from fewshot.wandb_result import log_test

CROSS_DOMAIN_QUERIES = 15
CONFIG_CHARACTERS = 100_000  # of a run's config.yaml, which has some 2 000
TESTED = ("metric", "mean", "ci95", "tasks", "shots", "ways", "test_queries")  # kept of a test on further data


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Tests `cfg.run` as `cfg` says and keeps the result in the run's folder, under `evaluations/`.

    A test on another data set, in the run's own shots and the usual number of tasks and queries, also becomes an entry
    under `tests` in the run's `result.json`, and in its W&B run.
    """
    quiet()
    folder = Path(cfg.run)
    trained = stored_config(folder)
    tested = test_config(cfg, trained)
    check(tested)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    trainer = make_lightning(
        trained.method.name,
        accelerator=cfg.accelerator,
        precision=trained.trainer.precision,
        logger=False,
        callbacks=[RichProgressBar(refresh_rate=5)] if cfg.bar else [],
        enable_progress_bar=cfg.bar,
        enable_checkpointing=False,
    )
    source = announced(tested.data.name, make_source(tested))
    if not on_other_data(cfg, trained):
        check_split(folder, source)
    learner = make_learner(trained, make_source(trained) if trained.data.name == "sine" else source)
    best_step = load_weights(learner, folder / "best.ckpt", trained.method.name)
    run_status = (read_result(folder / "result.json") or {}).get("status", "unfinished")
    if run_status != "finished":
        print(f"the run is {run_status}: this is its best state so far, after update {best_step}", file=sys.stderr)
    datamodule = make_datamodule(tested, source, ["test"])
    trainer.test(learner, datamodule=datamodule, verbose=False)
    try:
        outcome, tasks, scores = scored(learner)
    except Diverged as error:
        raise UserError(f"{error}: this state has no mean on these tasks") from error
    result = {"status": "finished"} | describe(trained, learner, changed(trained)) | outcome | surroundings(trainer)
    result |= {"data": tested.data.name, "shots": tested.shots, "test_queries": tested.data.test_queries}
    result |= {"ways": result["ways"] if tested.data.name == "sine" else tested.data.ways, "run": folder.name}
    result |= {"run_status": run_status, "best_step": best_step}
    table = full_name(tested.data.name, Path(tested.data.path) if "path" in tested.data else None)
    kept = folder / "evaluations" / f"{Protocol.of(result).file_name(table)}.json"
    usual = all(cfg[key] is None for key in ("shots", "queries", "ways", "tasks"))
    pictures: list[Path] = []
    try:
        kept.parent.mkdir(exist_ok=True)
        with FileLock(kept.parent / ".lock"):  # several may test one run at once
            write_scores(kept.with_suffix(".csv"), tasks, scores)
            write_json(kept, result)
            if usual and on_other_data(cfg, trained):
                keep_entry(folder, trained, cfg.data if cfg.path is None else table, result)
            if cfg.pictures:
                pictures = draw_all(learner, datamodule, kept.with_suffix(""))
        show(result, kept)
    except OSError as error:  # what was measured is shown all the same
        show(result, None)
        print(f"not everything was kept in {kept.parent}: {error}", file=sys.stderr)
    for path in pictures:
        print(path)
    return result


def keep_entry(folder: Path, trained: DictConfig, name: str, tested: dict[str, Any]) -> None:
    """Adds a test on further data to the run's `result.json` and, if the run logs to W&B, to its summary there."""
    result = read_result(folder / "result.json")
    if result is None:  # the run goes on, and will write its result
        return
    entries = result.get("tests", {}) | {name: {key: tested[key] for key in TESTED}}
    write_json(folder / "result.json", result | {"tests": entries})
    if trained.logger.name == "wandb":
        going_on = wandb.run
        try:
            log_test(going_on or start_wandb(trained, folder), f"test/{name}", tested)
        except Exception as error:  # a score does not fall with W&B
            print(f"W&B did not take the result: {type(error).__name__}: {error}", file=sys.stderr)
        if going_on is None:
            wandb.finish()


class PlainLoader(yaml.SafeLoader):
    """Plain data without aliases, of which a few lines can make more than fits into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds aliases, which no run writes")
        return super().compose_node(parent, index)


def stored_config(folder: Path) -> DictConfig:
    """A run's configuration, read as data and laid over the composed defaults: unknown keys are refused."""
    path = folder / "config.yaml"
    if not (folder / "best.ckpt").exists() or not path.exists():
        mend = "; train.py with force=true makes it anew" if (folder / "last.ckpt").exists() else ""
        raise UserError(
            f"run={folder} is no run's folder with a validated state: it needs config.yaml and best.ckpt{mend}"
        )
    try:
        with path.open(encoding="utf-8") as file:
            stored = yaml.load(file.read(CONFIG_CHARACTERS), PlainLoader)
        choices = {group: stored[group]["name"] for group in ("data", "method", "backbone")} | {"form": stored["form"]}
        shots = int(stored["shots"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a run's configuration: {type(error).__name__} {error}") from error
    interpolated = any("${" in f"{key} {value}" for key, value in flatten(stored).items())
    if interpolated or not all(re.fullmatch(r"\w+", str(choice)) for choice in choices.values()):
        raise UserError(f"{path} is not a run's resolved configuration: it holds more than plain values")
    overrides = [f"{group}={choice}" for group, choice in choices.items()] + [f"shots={shots}"]
    try:
        cfg = OmegaConf.merge(composed(overrides), stored)
    except OmegaConfBaseException as error:
        raise UserError(f"{path} does not fit this version: {str(error).splitlines()[0]}") from error
    assert isinstance(cfg, DictConfig)
    check(cfg)
    return cfg


def test_config(cfg: DictConfig, trained: DictConfig) -> DictConfig:
    """The configuration of the test: the run's, with the data, shots, ways, queries and tasks that `cfg` names."""
    tested = trained.copy()
    name = cfg.data or trained.data.name
    if cfg.path is not None and name != "folder":
        raise UserError(f"path={cfg.path} is for data=folder, and the test is on data={name}: leave out one of them")
    with open_dict(tested):
        if on_other_data(cfg, trained):
            tested = across(trained, name)
        if name == "folder":
            tested.data.path = cfg.path or trained.data.get("path")
            if not tested.data.path:
                raise UserError("data=folder needs path=<a folder of class folders>")
        tested.paths = cfg.paths
        changes = {
            "shots": cfg.shots,
            "data.ways": cfg.ways,
            "data.test_queries": cfg.queries,
            "trainer.test_tasks": cfg.tasks,
            "trainer.eval_batch": cfg.eval_batch,
        }
        for key, value in changes.items():
            if value is not None:
                OmegaConf.update(tested, key, value)
    if cfg.ways is not None and "ways" not in trained.data:
        raise UserError(f"ways={cfg.ways}: data={name} is regression and has no ways, leave it out")
    if cfg.ways is not None and learner_class(trained.method.name).has_head and cfg.ways != trained.data.ways:
        raise UserError(f"ways={cfg.ways}: the run's head was trained for {trained.data.ways} ways")
    return tested


def on_other_data(cfg: DictConfig, trained: DictConfig) -> bool:
    elsewhere = cfg.path is not None and Path(cfg.path).resolve() != Path(trained.data.get("path") or "").resolve()
    return (cfg.data or trained.data.name) != trained.data.name or elsewhere


def across(trained: DictConfig, name: str) -> DictConfig:
    """The configuration that tests on data set `name`, in the sizes and ways of the training."""
    new = composed([f"data={name}", f"method={trained.method.name}", "form=text"])
    if "sine" in (name, trained.data.name):
        raise UserError(f"the run was trained on {trained.data.name}: data={name} has other inputs")
    tested = trained.copy()
    with open_dict(tested):
        tested.data = OmegaConf.merge(new.data, {k: trained.data[k] for k in ("size", "channels", "ways")})
        tested.data.test_queries = CROSS_DOMAIN_QUERIES if name != "glyphs" else new.data.test_queries
    return tested


def evaluation_config(told: dict[str, Any]) -> DictConfig:
    """The configuration that `evaluate.py` would compose, with these values."""
    cfg = yaml.safe_load((Path(CONF) / "evaluate" / "evaluate.yaml").read_text())
    keys = {key: value for key, value in cfg.items() if key not in ("defaults", "hydra")}
    return OmegaConf.create(keys | told)


def load_weights(learner: MetaLearner, path: Path, method: str, to_go_on: bool = False) -> int:
    """Loads a checkpoint's weights, without executing anything in it, and returns the update they are from.

    Raises:
        UserError: it holds none, those of another learner or, where `to_go_on`, no state of a training beside them.
    """
    if not path.exists():
        raise UserError(f"{path} is missing")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, step = checkpoint["state_dict"], int(checkpoint["global_step"])
    except Exception as error:  # a foreign file can fail in any way
        line = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path} is not a checkpoint of weights: {line}") from error
    if to_go_on and not is_state(checkpoint):
        raise UserError(f"{path} is no state that a run can go on from")
    try:
        learner.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        line = " ".join(str(error).split())[:160]
        raise UserError(f"{path} does not hold the weights of the run's method={method}: {line}") from error
    return step


def is_state(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint says of its optimiser, its best state and its progress what its update number says.

    Where a part is missing, Lightning would begin anew with trained weights, or not find the best state.
    """
    try:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        [best] = [state for name, state in checkpoint["callbacks"].items() if name.startswith("SaveBest")]
        [optimizer] = checkpoint["optimizer_states"]
        steps = progress["optimizer"]["step"]["total"]["completed"]
        return steps == checkpoint["global_step"] and best["best_k_models"] and optimizer["state"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
