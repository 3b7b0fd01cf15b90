"""The command line: Hydra's entry, exit codes, and how the jobs of a multirun ended."""

import math
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import FOLDERS, is_regression, swept
from fewshot.errors import EXIT_CODES, exit_code, show_error
from fewshot.training import signals
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run


@hydra.main(version_base="1.3", config_path=FOLDERS["train"], config_name="train")
def train_job(cfg: DictConfig) -> float:
    return job(run, cfg)


@hydra.main(version_base="1.3", config_path=FOLDERS["evaluate"], config_name="evaluate")
def evaluate_job(cfg: DictConfig) -> float:
    return job(evaluate, cfg)


def job(function: Callable[[DictConfig], dict[str, Any]], cfg: DictConfig) -> float:
    """One run or evaluation. In a multirun no error stops the jobs after it: `jobs.csv` has how each ended.

    Returns what a sweeper may optimise: the best validation score, of a test its mean, without one the worst
    there is.
    """
    signals.install()
    outcome, why, score, stopped = "finished", "", None, None
    try:
        result = function(cfg)
        score = result.get("best_validation", result.get("mean"))
    except signals.Stopped as stop:
        outcome, why, stopped = stop.status, str(stop), stop
    except Exception as error:
        outcome, why = show_error(error)
    job_cfg = HydraConfig.get()
    if job_cfg.mode == RunMode.MULTIRUN:
        given: Any = OmegaConf.to_container(job_cfg.overrides.task)  # not resolved
        status = f"{outcome}: {why}" if why else outcome
        row = pd.DataFrame([[job_cfg.job.num, " ".join(given), status, score]])
        row.to_csv(Path(job_cfg.sweep.dir, "jobs.csv"), mode="a", header=False, index=False)
    elif stopped is None:
        sys.exit(EXIT_CODES[outcome])
    if stopped is not None:
        signals.end_job(stopped)
    worst = math.inf if "method" in cfg and is_regression(cfg) else -math.inf
    return worst if score is None else float(score)


def read_jobs(folder: Path) -> pd.DataFrame:
    """How each job of a sweep ended last; a job that a cluster requeues is recorded more than once."""
    names = ["job", "overrides", "status", "score"]
    rows = pd.read_csv(folder / "jobs.csv", names=names, dtype=str, keep_default_na=False)
    return rows.drop_duplicates("job", keep="last")


def as_shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The table for people: without the overrides that all jobs have, and scores in four digits."""
    given = [row.split() for row in rows["overrides"]]
    common = set.intersection(*map(set, given)) if len(given) > 1 else set()
    own = [" ".join(override for override in row if override not in common) for row in given]
    scores = [f"{float(score):.4g}" if score else "" for score in rows["score"]]
    return rows.assign(overrides=own, score=scores)


class JobTable(Callback):
    """Hydra's callback that says how each job of a multirun ended, and at the end shows a table of all.

    A launcher sends it to the processes of the jobs. The exit code is that of the worst job.
    """

    total, began = 0, 0.0  # jobs, 0 if unknown; the time at the start of a multirun

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.began, sweeper = time.time(), config.hydra.sweeper
        if "joblib" in config.hydra.launcher._target_:  # its processes end with this one from their start on
            from joblib.parallel import LokyBackend, register_parallel_backend

            register_parallel_backend("loky", partial(LokyBackend, initializer=signals.install))
        if sweeper._target_.endswith(".BasicSweeper"):  # others, as Optuna's, choose while they run
            choices = swept(sweeper.params or {}, config.hydra.overrides.task)
            self.total = math.prod(map(len, choices.values()))

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        if self.began:
            rows = read_jobs(Path(config.hydra.sweep.dir)).set_index("job")
            job, done = rows.loc[str(config.hydra.job.num)], f"{len(rows)} done"
            if self.total:
                left = (time.time() - self.began) / len(rows) * (self.total - len(rows))
                done = f"{len(rows)} of {self.total}, {timedelta(seconds=round(left))} left at this rate"
            print(f"job {job.name}, {job.overrides}: {job.status} ({done})", file=sys.stderr)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        rows = read_jobs(Path(config.hydra.sweep.dir))
        score = "best validation" if "method" in config else "test"
        print(as_shown(rows).rename(columns={"score": score}).to_string(index=False), file=sys.stderr)
        codes = rows["status"].str.partition(":")[0].map(EXIT_CODES)
        sys.exit(max(codes, key=[*EXIT_CODES.values()].index))


def main(program: Callable[[], None]) -> int:
    """Runs a program and returns the most severe exit code of its jobs; 128 + its number for a signal."""
    signals.install()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors of the command line come here
    return exit_code(program)


train = partial(main, train_job)
evaluate_run = partial(main, evaluate_job)
