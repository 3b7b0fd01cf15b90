"""A run continues from the final state of a finished run that differs from it in `trainer.max_steps` alone."""

import copy
import io
import sys
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from fewshot.config.compose import flatten
from fewshot.config.load_config import stored_config
from fewshot.config.run_id import identity
from fewshot.errors import UserError, brief
from fewshot.files import atomic_open
from fewshot.results.environment import environment
from fewshot.results.record import final_result
from fewshot.training.build import make_lightning
from fewshot.training.captured import recordable
from fewshot.training.checkpoints import load_weights
from fewshot.training.compiled import wanted
from fewshot.training.prepare import Run
from fewshot.training.split import check_split

SAME_TRAINER = (
    "val_check_interval",
    "log_every_n_steps",
    "similarity",
    "micro_batch_size",
    "eval_batch_size",
    "lightning",
)
SAME_RESULT = (
    "device",
    "devices",
    "tf32",
    "threads",
    "versions",
    "compiled",
    "captured",
)  # change the rounding


def extend(run: Run) -> bool:
    """Copies the final state of the longest such run to the run's folder where the scores stay the same, bit for bit.

    A line on stderr says so, or why a shorter run cannot be continued. The shorter run is only read.
    """
    for cfg, folder in sorted(shorter(run), key=lambda found: -found[0].trainer.max_steps):
        where = f"the finished run of {cfg.trainer.max_steps} updates in {folder}"
        try:
            files, state = read(run, folder, cfg)
        except Exception as error:  # a damaged run can fail in any way
            why = str(error) if isinstance(error, UserError) else brief(error, 160)
            print(f"does not continue {where}: {why}", file=sys.stderr)
            continue
        for name, content in files.items():
            with atomic_open(run.folder / name, "wb") as file:
                file.write(content)
        with atomic_open(run.folder / "last.ckpt", "wb") as file:  # last: a folder with this file is resumed
            torch.save(state, file)
        logger = run.cfg.logger.name
        curve = f"; in {logger} its curve starts there" * (logger in ("wandb", "tensorboard"))
        print(f"continues {where}{curve}", file=sys.stderr)
        return True
    return False


def shorter(run: Run) -> list[tuple[DictConfig, Path]]:
    """Finished runs with fewer updates and else the same identity; `read` rejects another `val_check_interval`."""
    found, mine, changed = [], flatten(identity(run.cfg)), run.description["config_diff"]
    keys = mine.keys() - {"trainer.max_steps", "trainer.val_check_interval"}
    for folder in run.folder.parent.glob(f"seed{run.cfg.seed}-*"):
        result = final_result(folder) or {"status": "missing"}
        theirs = result.get("config_diff", {})
        if result["status"] != "finished" or any(theirs.get(key) != changed.get(key) for key in keys):
            continue  # composing the configuration of each trial of a search would take seconds
        with suppress(Exception):  # not a run of this version
            other = flatten(identity(cfg := stored_config(folder)))
            same = other.keys() == mine.keys() and all(other[key] == mine[key] for key in keys)
            if same and cfg.trainer.max_steps < run.cfg.trainer.max_steps:
                found.append((cfg, folder))
    return found


def read(run: Run, folder: Path, cfg: DictConfig) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files and final state of a shorter run; an error where the longer run would not pass through them."""
    result, learner = final_result(folder) or {}, copy.deepcopy(run.learner)
    then = {key: cfg.trainer[key] for key in SAME_TRAINER} | {key: result.get(key) for key in SAME_RESULT}
    for key, now in conditions(run).items():
        if then[key] != now:
            raise UserError(f"{key} was {then[key]} and is {now}")
    check_split(folder, run.datamodule.source)
    if load_weights(learner, folder / "last.ckpt", cfg.method.name) != cfg.trainer.max_steps:
        raise UserError("last.ckpt is not its final state")
    if load_weights(learner, folder / "best.ckpt", cfg.method.name) != result["best_step"]:
        raise UserError("best.ckpt is not its best state")
    state = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)
    state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False  # there are more now
    names = ["best.ckpt"] + ["metrics.csv"] * (run.cfg.logger.name != "none")
    return {name: (folder / name).read_bytes() for name in names}, state


def conditions(run: Run) -> dict[str, Any]:
    """What must be the same in both runs, as it is in this one."""
    cfg = run.cfg
    where = {key: cfg.trainer[key] for key in ("accelerator", "precision", "devices")}
    trainer = make_lightning(cfg.method.name, **where, logger=False)
    device = trainer.strategy.root_device
    with redirect_stderr(io.StringIO()):  # the training itself says what it compiles
        compiled = wanted(run.learner, cfg, device)
    recorded = not compiled and cfg.trainer.compile == "auto" and recordable(run.learner, cfg, device)
    result = environment(trainer) | {"compiled": compiled, "captured": recorded}
    return {key: cfg.trainer[key] for key in SAME_TRAINER} | {key: result[key] for key in SAME_RESULT}
