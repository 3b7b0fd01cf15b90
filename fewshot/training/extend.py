"""A run continues from a finished run that differs from it in `trainer.max_steps` alone."""

import copy
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from fewshot.config.compose import flatten
from fewshot.config.eval_config import load_config
from fewshot.config.run_id import config_diff, identity
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import UserError, brief
from fewshot.files import atomic_open
from fewshot.methods import MetaLearner
from fewshot.results.environment import environment, git_commit
from fewshot.results.record import final_result
from fewshot.training.checkpoints import load_weights
from fewshot.training.compiled import to_compile
from fewshot.training.split import check_split

SAME_SETTINGS = (  # of the trainer
    *("val_check_interval", "log_every_n_steps", "similarity", "micro_batch_size", "eval_batch_size"),
    *("gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark", "fast_dev_run"),
)
SAME_ENVIRONMENT = ("device", "devices", "tf32", "threads", "versions", "compiled", "captured")


def extend(
    cfg: DictConfig, folder: Path, datamodule: EpisodicDataModule, learner: MetaLearner, trainer: L.Trainer
) -> None:
    """Copies the final state of the longest such run to `folder`, where the scores stay the same, bit for
    bit.

    A line on stderr says so, or why a shorter run cannot be continued. The shorter run is only read.
    """
    for shorter, path in sorted(shorter_runs(cfg, folder), key=lambda run: -run[0].trainer.max_steps):
        where = f"the finished run of {shorter.trainer.max_steps} updates in {path}"
        try:
            check_same(cfg, shorter, path, learner, trainer)
            check_split(path, datamodule.source)
            state = final_state(shorter, path, copy.deepcopy(learner))
            names = ["best.ckpt"] + ["metrics.csv"] * (cfg.logger.name != "none")
            files = {name: (path / name).read_bytes() for name in names}
        except Exception as error:
            why = str(error) if isinstance(error, UserError) else brief(error, 160)
            print(f"does not continue {where}: {why}", file=sys.stderr)
            continue
        for name, content in files.items():
            with atomic_open(folder / name, "wb") as file:
                file.write(content)
        with atomic_open(folder / "last.ckpt", "wb") as file:  # last: a folder with this file is resumed
            torch.save(state, file)
        if cfg.logger.name in ("wandb", "tensorboard"):
            where += f"; in {cfg.logger.name} its curve starts there"
        print(f"continues {where}", file=sys.stderr)
        return


def shorter_runs(cfg: DictConfig, folder: Path) -> list[tuple[DictConfig, Path]]:
    """Finished runs with fewer updates and otherwise the same identity."""
    tasks, finished = cfg.trainer.max_steps * cfg.method.meta_batch_size, []
    for path in folder.parent.glob(f"seed{cfg.seed}-*"):
        result = final_result(path)
        if result and result["status"] == "finished" and result["train_tasks"] < tasks:
            finished.append((path, result["config_diff"]))
    if not finished:
        return []
    found, mine, differing = [], flatten(identity(cfg)), config_diff(cfg)
    keys = mine.keys() - {"trainer.max_steps", "trainer.val_check_interval"}
    for path, other in finished:
        if any(other.get(key) != differing.get(key) for key in keys):
            continue  # composing the configuration of each trial of a search would take seconds
        with suppress(Exception):  # not a run of this version
            theirs = flatten(identity(shorter := load_config(path)))
            if theirs.keys() == mine.keys() and all(theirs[key] == mine[key] for key in keys):
                found.append((shorter, path))
    return found


def check_same(
    cfg: DictConfig, shorter: DictConfig, path: Path, learner: MetaLearner, trainer: L.Trainer
) -> None:
    """UserError where anything differs that changes the rounding of a sum, or the curve."""
    device, result = trainer.strategy.root_device, final_result(path) or {}
    part, captures = to_compile(learner, cfg, device)
    now = environment(trainer) | {"compiled": part is not None, "captured": captures}
    pairs = {name: (shorter.trainer[name], cfg.trainer[name]) for name in SAME_SETTINGS}
    pairs |= {name: (result.get(name), now[name]) for name in SAME_ENVIRONMENT}
    pairs["git_commit"] = (result.get("git_commit"), git_commit())
    for name, (then, today) in pairs.items():
        if then != today:
            raise UserError(f"{name} was {then} and is {today}")


def final_state(cfg: DictConfig, path: Path, learner: MetaLearner) -> dict[str, Any]:
    """The state of a finished run, as one that goes on."""
    load_weights(learner, path / "best.ckpt", cfg.method.name)
    if load_weights(learner, path / "last.ckpt", cfg.method.name) != cfg.trainer.max_steps:
        raise UserError("last.ckpt is not its final state")
    state: dict[str, Any] = torch.load(path / "last.ckpt", map_location="cpu", weights_only=True)
    state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False  # there are more now
    return state
