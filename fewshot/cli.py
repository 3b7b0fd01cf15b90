"""From the command line to a function of one configuration: Hydra's entry, integer shots, errors in one line."""

import math
import os
import re
import sys
import tempfile
import traceback
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from fewshot import jobs, signals
from fewshot.config.checks import check, check_evaluation, check_there
from fewshot.config.compose import FOLDERS, at_home, quote_shots
from fewshot.config.run_id import run_folder
from fewshot.errors import Busy, UserError, out_of_memory
from fewshot.line import check_line, is_multirun, refuse_other_way, refuse_renamed, tell_of_others
from fewshot.mistakes import any_letters, explain, say
from fewshot.training.evaluate import evaluate
from fewshot.training.finished import kept_result, show_kept, untested
from fewshot.training.train import train

EXIT_CODES = {
    "failed": 1,
    "diverged": 1,
    "refused": 2,
    "timeout": 124,
    "stopped": 143,
}  # as timeout(1), as SIGTERM
Run = Callable[[DictConfig], dict[str, Any]]
WORST = (0, 124, 143, 1, 2)  # of the cells of a multirun
ArgumentParser._check_help = lambda *_: None  # type: ignore  # Python 3.14's would not take one of Hydra's help texts
MEMORY = "not enough memory: lower trainer.micro_batch_size, trainer.eval_batch_size, data.size or the network's widths"


def run_train(cfg: DictConfig) -> dict[str, Any]:
    """The result of a run: of a finished one as it is kept, otherwise trained."""
    if result := finished(cfg):
        return result | {"ran": False}
    return train(cfg)


def finished(cfg: DictConfig) -> dict[str, Any] | None:
    """The result of a run that needs nothing more, shown; UserError where its settings make no sense."""
    check(cfg)
    if cfg.overwrite and jobs.begun_by_this_job(run_folder(cfg)):
        cfg.overwrite = False
    result = kept_result(cfg, run_folder(cfg))
    if result is None:
        check_there(cfg)
    if result is None or untested(cfg, result):
        return None
    show_kept(cfg, result, run_folder(cfg))
    return result


def run_evaluate(cfg: DictConfig) -> dict[str, Any]:
    check_evaluation(cfg)
    return evaluate(cfg)


def main(run: Run, name: str) -> int:
    """Runs `run` on the configuration that the command line composes, or on each cell of a multirun.

    Returns the exit code: 0; 1 where a run failed or diverged; 2 for a user's mistake; 124 where `trainer.max_time` was
    over; 128 + its number for a signal. A cell that fails does not stop the others, unless its process is killed.
    """
    signals.last_words = last_words
    any_letters()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here, to be told in one line
    away = on_cluster(sys.argv[1:])
    try:
        own = tempfile.TemporaryDirectory(
            prefix=".cells-", dir=Path.cwd() if away else None
        )  # which its nodes see
    except OSError as error:
        return say(
            UserError(f"{error}: give the command in a folder that can be written to, and that all nodes see")
        )
    with own as folder:
        try:
            check_line(sys.argv[1:])
            may_stand_anywhere = ("-m", "--multirun")
            sys.argv[1:] = sorted(quote_shots(sys.argv[1:]), key=lambda a: a not in may_stand_anywhere)
            if any(re.match("(-c|--cfg)(=|$)", a) for a in sys.argv[1:]):
                sys.argv.append("--resolve")  # what will run, not how it is found
            jobs.begin(Path(folder), run, sys.argv[1:])
            with jobs.followed() if away else nullcontext():
                hydra.main(version_base="1.3", config_path=FOLDERS[name], config_name=name)(CELL[name])()
        except signals.Stopped as stop:
            signals.tell(f"{stop}\n{failures()}")
            return stop.exit_code
        except (
            Exception
        ) as error:  # those of a run end in run_cell: this is of the command line, or a lost worker
            print(failures(), file=sys.stderr, end="")
            code = say(error, name)
            of_line = isinstance(error, (UserError, HydraException, OmegaConfBaseException))
            lost = isinstance(error, BrokenExecutor)  # a worker was killed
            return 1 if lost or (jobs.outcomes() and not of_line) else code
        print(failures(), file=sys.stderr, end="")
        if not away and not jobs.outcomes() and is_multirun(sys.argv[1:]):
            return say(UserError(f"{' '.join(a for a in sys.argv[1:] if '(' in a)}: no values, no cells"))
        codes = (EXIT_CODES.get(outcome["status"], 0) for outcome in jobs.outcomes())
        return max(codes, default=0, key=WORST.index)


def failures() -> str:
    """The cells of a multirun that have no result, a line each."""
    outcomes = jobs.outcomes()
    bad = [outcome for outcome in outcomes if outcome["status"] in EXIT_CODES]
    if not bad or not bad[0]["multirun"]:
        return ""
    lines = [f"  {outcome['name']}: {outcome['status']}, {outcome.get('reason')}\n" for outcome in bad]
    return f"{len(bad)} of {len(outcomes)} cells have no result:\n{''.join(lines)}"


def on_cluster(arguments: list[str]) -> bool:
    return any(re.match("hydra/launcher=(submitit_)?slurm", argument) for argument in arguments)


def last_words() -> str:
    """Before an end that nothing cleans up after."""
    text = failures() + f"{jobs.GO_ON}\n" * on_cluster(sys.argv[1:])
    jobs.end()
    return text


def train_cell(cfg: DictConfig) -> float:
    return run_cell(jobs.told or run_train, cfg)


def evaluate_cell(cfg: DictConfig) -> float:
    return run_cell(jobs.told or run_evaluate, cfg)


CELL = {
    "train": train_cell,
    "evaluate": evaluate_cell,
}  # pickled by name, for launchers with processes of their own


def run_cell(run: Run, cfg: DictConfig) -> float:
    """Runs one cell, or the one of a single run, with a bar over the cells between them.

    Whatever happens in it, the next one follows. Returns what a sweeper may optimise: the best validation score, of a
    test its mean, where there is none the worst that there can be: a sweeper would end at NaN.
    """
    hydra_cfg = HydraConfig.get()
    overrides: list[Any] = OmegaConf.to_container(hydra_cfg.overrides.task)  # type: ignore[assignment]
    multirun = hydra_cfg.mode == RunMode.MULTIRUN
    total, swept = jobs.sweep(hydra_cfg) if multirun else (1, set())
    name = " ".join([o for o in overrides if o.split("=")[0] in swept] or overrides * multirun)
    if signals.asked:  # as the cell before ended
        raise signals.Stopped(signals.asked, f"stopped by {signals.asked.name}: give {signals.again()} again")
    if jobs.in_worker():
        signals.obey()
    elif jobs.in_job():
        signals.serve()
    console = Console(stderr=True)
    if multirun:
        console.print(Text(name, "bold"), highlight=False)
    try:
        if studies := swept & {"experiment", "search"}:
            raise UserError(
                f"{studies.pop()}=…,…: a command runs one study, as a study says itself what it sweeps"
            )
        if not multirun:
            tell_of_others(hydra_cfg, [o.split("=")[0].lstrip("+") for o in overrides])
        refuse_other_way(hydra_cfg, cfg)
        refuse_renamed(cfg, hydra_cfg.runtime.choices, overrides)
        if empty := [o for o in overrides if o.partition("=")[2].strip() == "{}"]:
            raise UserError(
                f"{empty[0]} says nothing: choose a group by name, or set its settings one by one"
            )
        signals.forced = bool(cfg.get("overwrite"))
        outcome = run(at_home(cfg))
    except signals.Stopped as stop:
        if jobs.in_worker():  # nobody waits for it
            os._exit(stop.exit_code)
        if not jobs.in_job():
            raise
        signals.tell(f"{stop}\n")
        signals.queue_again()
        outcome = {"status": "stopped", "reason": str(stop)}
    except (UserError, OmegaConfBaseException, HydraException) as error:
        say(error)
        outcome = {"status": "refused", "reason": explain(error)}
        if isinstance(error, Busy):
            outcome["busy"] = str(error.folder)
    except Exception as error:
        if out_of_memory(error):
            error = UserError(f"{MEMORY} ({' '.join(str(error).split())[:160]})")
            say(error)
            outcome = {"status": "refused", "reason": str(error)}
        else:
            traceback.print_exc()
            outcome = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    status = outcome["status"]
    ran = status != "refused" and outcome.get("ran", True)
    told = {
        "name": name,
        "multirun": multirun,
        "total": total,
        "status": status,
        "reason": outcome.get("reason"),
    }
    jobs.add(told | {"ran": ran, "cell": hydra_cfg.job.num if multirun else 0, "busy": outcome.get("busy")})
    if multirun:
        jobs.show(console, total)
    score = outcome.get("best_validation", outcome.get("mean"))
    worst = math.inf if OmegaConf.select(cfg, "data.name") == "sine" else -math.inf
    return worst if score is None else float(score)
