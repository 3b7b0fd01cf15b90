"""From the command line to a function of one configuration: Hydra's entry, and errors in one line."""

import io
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import FOLDERS, expand_paths, quote_shots
from fewshot.errors import (
    MISTAKES,
    Diverged,
    LostProcess,
    OutOfTime,
    UserError,
    one_line,
    out_of_memory,
    report_mistake,
)
from fewshot.training import jobs, signals
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run

MEMORY = "not enough memory: lower trainer.micro_batch_size, trainer.eval_batch_size, data.size or the widths"


@hydra.main(version_base="1.3", config_path=FOLDERS["train"], config_name="train")
def train_job(cfg: DictConfig) -> float:
    return job(run, cfg)


@hydra.main(version_base="1.3", config_path=FOLDERS["evaluate"], config_name="evaluate")
def evaluate_job(cfg: DictConfig) -> float:
    return job(evaluate, cfg)


def job(function: Callable[[DictConfig], dict[str, Any]], cfg: DictConfig) -> float:
    """One run or evaluation, alone or in a multirun. An error is printed and noted, and the next job follows.

    Returns what a sweeper may optimise: the best validation score, of a test its mean, without one the worst
    there is.
    """
    signals.install()
    began = time.time()
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # as given, not resolved
    score, status, message, stopped = None, "finished", "", None
    try:
        refuse_part_of_study(overrides)
        result = function(expand_paths(cfg))
        score = result.get("best_validation", result.get("mean"))
    except signals.Stopped as stop:
        status, message, stopped = stop.status, str(stop), stop
    except Exception as error:
        status, message = outcome_of(error)
        print(f"error: {message}", file=sys.stderr)
    jobs.add(overrides, status, message, score, time.time() - began)
    if stopped is not None:
        signals.end_job(stopped)
    worst = math.inf if OmegaConf.select(cfg, "data.name") == "sine" else -math.inf
    return worst if score is None else float(score)


def refuse_part_of_study(overrides: list[str]) -> None:
    """UserError for a study without -m, of which one run would train that nobody has chosen."""
    hydra = HydraConfig.get()
    given = {override.lstrip("+").split("=")[0] for override in overrides}
    left = [name for name in hydra.sweeper.get("params") or {} if name not in given]
    if left and hydra.mode == RunMode.RUN:
        raise UserError(f"this study sweeps {', '.join(left)}: add -m, or choose a value of each")


def outcome_of(error: Exception) -> tuple[str, str]:
    """The status and message of a job that an error ended; prints the traceback of an unknown one."""
    if out_of_memory(error):
        return "invalid", f"{MEMORY} ({one_line(error, 160)})"
    if isinstance(error, MISTAKES):
        return "invalid", one_line(error)
    if isinstance(error, OutOfTime):
        return "out of time", one_line(error)
    if not isinstance(error, Diverged | LostProcess):
        traceback.print_exc()
    return "failed", one_line(error)


def main(program: Callable[[], Any]) -> int:
    """Runs a program on the configuration, or each of a multirun's, that the command line composes.

    Returns the exit code: 0; 1 where a run failed or diverged; 2 for a user's mistake; 124 where
    `trainer.max_time` was over; 128 + its number for a signal; in a multirun the most severe of its jobs.
    """
    signals.install()
    jobs.exit_code = 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)  # a terminal without ±
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors of the command line come here
    sys.argv[1:] = quote_shots(sys.argv[1:])
    try:
        program()
    except MISTAKES as error:
        return report_mistake(error)
    return jobs.exit_code
