"""The cells of a multirun: how many there are, what differs between them, and how each ended.

A launcher may run them in processes of its own: what they share is a file, found by an environment variable.
"""

import json
import math
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from fewshot.files import atomic_write

FILE = "FEWSHOT_CELLS"
JOB = ".job"
GO_ON = (
    "the cells are jobs of the cluster and go on without this command: squeue lists them, scancel ends them"
)
_own: Path | None = None  # the folder of this process's command
told: Callable[[DictConfig], dict[str, Any]] | None = None  # what this process was asked to run


def begin(folder: Path, run: Callable[[DictConfig], dict[str, Any]], arguments: Sequence[str]) -> None:
    """Begins a command: `folder` is its own, and lives as long as it."""
    global told, _own
    told, _own = run, folder
    (folder / "arguments.json").write_text(json.dumps(list(arguments)))
    os.environ[FILE] = str(folder / "cells.jsonl")


def end() -> None:
    """Takes away what the cells of this process's command shared, if it has begun one."""
    if _own is not None:
        shutil.rmtree(_own, ignore_errors=True)


def in_worker() -> bool:
    """Whether this process is one that a launcher made for some of the cells."""
    return multiprocessing.current_process().name != "MainProcess"


def in_job() -> bool:
    """Whether this process is a job of a cluster, by submitit."""
    return "SUBMITIT_EXECUTOR" in os.environ


def note_job(folder: Path) -> None:
    """Notes in the folder of a run that this job of Slurm has begun it anew, if it is one."""
    if job := os.environ.get("SLURM_JOB_ID"):
        atomic_write(folder / JOB, job)


def begun_by_this_job(folder: Path) -> bool:
    """Whether an earlier part of this job has: it was queued again, as its limit came or its node failed."""
    kept, again = folder / JOB, os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    return again and kept.is_file() and kept.read_text() == os.environ.get("SLURM_JOB_ID")


def listed() -> Path:
    """The list of how cells ended; a place that is none where a cluster hands no variables on."""
    return Path(os.environ.get(FILE) or "/nonexistent/cells.jsonl")


def add(outcome: dict[str, Any]) -> None:
    """Notes how a cell ended; one write, so that several processes may."""
    if (file := listed()).parent.is_dir():
        with file.open("a", encoding="utf-8") as cells:
            cells.write(json.dumps(outcome) + "\n")


def outcomes() -> list[dict[str, Any]]:
    """How each cell ended at last: what a cluster stops and queues again ends more than once."""
    return [since(outcome) for outcome in {outcome["cell"]: outcome for outcome in ends()}.values()]


def since(outcome: dict[str, Any]) -> dict[str, Any]:
    """How a cell ended at which another process was at work, once that has a result of it."""
    if busy := outcome.get("busy"):
        from fewshot.results.record import final_result

        if result := final_result(Path(busy)):
            return outcome | {"status": result["status"], "reason": result["reason"]}
    return outcome


def ends() -> list[dict[str, Any]]:
    file = listed()
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = []
    for line in lines:
        with suppress(ValueError):  # torn, as by two nodes of a cluster at once
            found.append(json.loads(line))
    return found


def sweep(hydra_cfg: Any) -> tuple[int | None, set[str]]:
    """The number of cells, None where a sweeper decides, and the keys that differ between them."""
    file = listed().with_name("arguments.json")
    arguments = json.loads(file.read_text()) if file.is_file() else []
    params = hydra_cfg.sweeper.get("params") or {}
    total, keys = count([f"{key}={value}" for key, value in params.items()], arguments)
    return (total if hydra_cfg.sweeper._target_.endswith(".BasicSweeper") else None), keys


def count(params: Sequence[str], arguments: Sequence[str]) -> tuple[int | None, set[str]]:
    """The same, of a sweep that a YAML defines (`params`) and a command line; the latter wins."""
    hydra = GlobalHydra.instance().hydra
    parser = OverridesParser.create(
        config_loader=hydra.config_loader if hydra else None
    )  # glob(*) asks what there is
    given = parser.parse_overrides([a for a in arguments if "=" in a and not a.startswith("-")])
    last = {o.get_key_element(): o for o in (*parser.parse_overrides(list(params)), *given)}
    swept = [o for o in last.values() if o.is_sweep_override()]
    try:
        total = math.prod(len(list(o.sweep_string_iterator())) for o in swept)
    except HydraException:  # an interval
        total = None
    return total, {o.get_key_element() for o in swept}


def show(console: Console, total: int | None) -> None:
    """A bar over the cells that have ended, and how long the others will take if they are as those that ran."""
    if not (begun := listed().with_name("arguments.json")).is_file():
        return  # whoever waited for a cluster's jobs has gone
    ended = outcomes()
    ran = sum(outcome["ran"] for outcome in ended)
    spent = time.time() - begun.stat().st_mtime
    left = f"about {clock(spent / ran * (total - len(ended)))} left" if ran and total else ""
    bar = Progress(
        TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TextColumn(f"{clock(spent)} · {left}")
    )
    bar.add_task("cells", total=total, completed=len(ended))
    console.print(bar)


@contextmanager
def followed() -> Iterator[None]:
    """Shows in a command that waits for a cluster's jobs how they end; what they print goes to files of their own."""
    over, console = threading.Event(), Console(stderr=True)

    def follow() -> None:
        seen, last = 0, over.wait(5)  # a queue that takes no job says so before
        if not last:
            console.print(GO_ON, highlight=False, soft_wrap=True)
        while not last:
            last = over.wait(1)
            new = ends()[seen:]
            for outcome in new:
                console.print(Text(f"{outcome['name']}: {outcome['status']}"), highlight=False)
            if new:
                show(console, new[-1]["total"])
            seen += len(new)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def clock(seconds: float) -> str:
    return str(timedelta(seconds=max(round(seconds), 0)))  # a clock may have been put back
