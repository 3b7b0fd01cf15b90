"""One run: train, validate and test one learner, and keep the result in the run's folder.

A finished run is shown, not repeated; an interrupted one resumes where it was saved last.
"""

import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from fewshot.config.checks import check
from fewshot.config.eval_config import further_tests
from fewshot.config.run_id import run_folder, table_name
from fewshot.errors import Diverged, OutOfTime, UserError
from fewshot.results.record import describe, read_result
from fewshot.training.build import assemble
from fewshot.training.evaluate import evaluate_on
from fewshot.training.fit import fit_and_test, run_trainer
from fewshot.training.folder import check_folder, finished, start_folder
from fewshot.training.loggers import end_wandb, quiet
from fewshot.training.record import record


def run(cfg: DictConfig) -> dict[str, Any]:
    """The result of the run that `cfg` describes, as its folder keeps it.

    Raises:
        UserError: a setting is wrong, or a file cannot be read or written.
        Diverged, OutOfTime: the run has no score.
    """
    quiet()
    check(cfg)
    folder = run_folder(cfg)
    try:
        if (result := finished(cfg, folder)) is not None:  # without a lock: the folder may not be ours
            result = test_further(cfg, folder, result)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock").acquire(timeout=3):
                result = finished(cfg, folder)  # of another process, which ended meanwhile
                result = test_further(cfg, folder, result) if result else train(cfg, folder)
    except Timeout:
        raise UserError(
            f"another process is working on {folder}: wait for it, or choose another seed"
        ) from None
    except OSError as error:
        raise UserError(f"the run of {folder} cannot read or write a file: {error}") from error
    finally:
        end_wandb()
    if result["status"] == "timeout":
        raise OutOfTime(result["reason"])
    if result["status"] == "diverged":
        raise Diverged(result["reason"])
    return result


def train(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Fits from the last state, if there is one, tests the best state and records the result."""
    datamodule, learner = assemble(cfg)
    trainer = run_trainer(cfg, folder, learner)
    check_folder(cfg, folder, datamodule)
    start_folder(cfg, folder, datamodule, learner)
    description = describe(cfg, learner)
    tested = fit_and_test(cfg, folder, datamodule, learner, trainer)
    result = record(cfg, folder, learner, datamodule, description, tested)
    return test_further(cfg, folder, result, tested.wandb)


def test_further(cfg: DictConfig, folder: Path, result: dict[str, Any], wandb: Any = None) -> dict[str, Any]:
    """The result with the tests on every data set of `data.test` that it does not hold yet."""
    if result["status"] != "finished":
        return result
    for further in further_tests(cfg):
        if table_name(further) in result.get("tests", {}):
            continue
        try:
            evaluate_on(folder, cfg, further, in_result=True, predictions=cfg.predictions, wandb=wandb)
        except Diverged as error:
            print(f"no score on {table_name(further)}: {error}", file=sys.stderr)
    return read_result(folder / "result.json") or result
