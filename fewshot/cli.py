"""The command line: Hydra's entry, errors in one line, exit codes, and the table of a multirun's jobs."""

import math
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import FOLDERS
from fewshot.errors import MISTAKES, Diverged, LostProcess, OutOfTime, UserError, one_line
from fewshot.training import signals
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run

PATHS = ("paths.raw", "paths.prepared", "paths.outputs", "data.path", "backbone.weights", "run", "path")
# by severity
EXIT_CODES = {"finished": 0, "out of time": 124, "requeued": 143, "stopped": 143, "failed": 1, "invalid": 2}


@hydra.main(version_base="1.3", config_path=FOLDERS["train"], config_name="train")
def train_job(cfg: DictConfig) -> float:
    return job(run, cfg)


@hydra.main(version_base="1.3", config_path=FOLDERS["evaluate"], config_name="evaluate")
def evaluate_job(cfg: DictConfig) -> float:
    return job(evaluate, cfg)


def job(function: Callable[[DictConfig], dict[str, Any]], cfg: DictConfig) -> float:
    """One run or evaluation. In a multirun an error does not stop the jobs after it.

    Returns what a sweeper may optimise: the best validation score, of a test its mean, without one the worst
    there is.
    """
    signals.install()
    score, status, message, stopped = None, "finished", "", None
    try:
        check_study()
        result = function(expand_paths(cfg))
        score = result.get("best_validation", result.get("mean"))
    except signals.Stopped as stop:
        status, message, stopped = stop.status, str(stop), stop
    except Exception as error:
        status, message = report(error), one_line(error)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        note(f"{status}: {message}" if message else status, score)
    elif stopped is None:
        sys.exit(EXIT_CODES[status])
    if stopped is not None:
        signals.end_job(stopped)
    worst = math.inf if OmegaConf.select(cfg, "data.name") == "sine" else -math.inf
    return worst if score is None else float(score)


def check_study() -> None:
    """UserError for a study without -m, of which one run would train that nobody has chosen."""
    hydra = HydraConfig.get()
    given = {override.lstrip("+").partition("=")[0] for override in hydra.overrides.task}
    left = [name for name in hydra.sweeper.get("params") or {} if name not in given]
    if left and hydra.mode == RunMode.RUN:
        raise UserError(f"this study sweeps {', '.join(left)}: add -m, or choose a value of each")


def expand_paths(cfg: DictConfig) -> DictConfig:
    """The configuration with `~` in its paths replaced by the home folder."""
    for name in PATHS:
        if value := OmegaConf.select(cfg, name):
            OmegaConf.update(cfg, name, str(Path(value).expanduser()))
    return cfg


def report(error: Exception) -> str:
    """Prints an error, and the traceback of an unknown one. Returns the status of the job that it ended."""
    if not isinstance(error, (*MISTAKES, OutOfTime, Diverged, LostProcess)):
        traceback.print_exc()
    print(f"error: {one_line(error)}", file=sys.stderr)
    if isinstance(error, MISTAKES):
        return "invalid"
    return "out of time" if isinstance(error, OutOfTime) else "failed"


def note(outcome: str, score: float | None) -> None:
    """Prints how a job of a multirun ended, and adds it to `jobs.csv` in the sweep's folder."""
    hydra = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra.overrides.task)  # as given, not resolved
    row = pd.DataFrame([[hydra.job.num, " ".join(overrides), outcome, score]])
    row.to_csv(Path(hydra.sweep.dir, "jobs.csv"), mode="a", header=False, index=False)
    print(f"job {hydra.job.num}, {' '.join(overrides)}: {outcome}", file=sys.stderr)


def read_jobs(folder: Path) -> pd.DataFrame:
    """How the jobs of a sweep ended, at last: what a cluster puts back into the queue ends more than once."""
    names = ["job", "overrides", "status", "score"]
    rows = pd.read_csv(folder / "jobs.csv", names=names, dtype=str, keep_default_na=False)
    return rows.drop_duplicates("job", keep="last")


class JobTable(Callback):
    """Hydra's callback that ends a multirun with a table of its jobs, and the exit code of the worst."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if "joblib" in config.hydra.launcher._target_:
            signals.install_in_joblib()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        rows = read_jobs(Path(config.hydra.sweep.dir))
        print(rows.to_string(index=False), file=sys.stderr)
        codes = rows["status"].str.partition(":")[0].map(EXIT_CODES)
        sys.exit(max(codes, key=[*EXIT_CODES.values()].index))


def main(program: Callable[[], None]) -> int:
    """Runs a program and returns the most severe exit code of its jobs; 128 + its number for a signal."""
    signals.install()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors of the command line come here
    try:
        program()
    except SystemExit as end:
        return int(end.code or 0)
    except Exception as error:
        return EXIT_CODES[report(error)]
    return 0


train = partial(main, train_job)
evaluate_run = partial(main, evaluate_job)
