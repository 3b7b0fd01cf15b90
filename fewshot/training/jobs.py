"""The jobs of a multirun: a row each in `jobs.csv` of the sweep's folder, progress, a table at the end."""

import csv
import math
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot.training import signals

FIELDS = ("job", "overrides", "status", "score", "seconds")
# by severity
EXIT_CODES = {
    "finished": 0,
    "out of time": 124,
    "requeued": 143,
    "stopped": 143,
    "failed": 1,
    "invalid": 2,
}

exit_code = 0  # of this process: of its run, or of the worst job


def add(overrides: list[str], status: str, error: str, score: float | None, seconds: float) -> None:
    """Notes how a job ended, for the exit code and, in a multirun, in `jobs.csv`."""
    count_in(status)
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        outcome = f"{status}: {error}" if error else status
        with (Path(hydra.sweep.dir) / "jobs.csv").open("a", newline="") as file:
            shown = "" if score is None else f"{score:.6g}"
            row = (hydra.job.num, " ".join(overrides), outcome, shown, round(seconds, 1))
            csv.writer(file).writerow(row)


def count_in(status: str) -> None:
    """The exit code is that of the most severe status."""
    global exit_code
    exit_code = max(exit_code, EXIT_CODES[status], key=list(EXIT_CODES.values()).index)


def read(folder: Path) -> pd.DataFrame:
    """How the jobs of a sweep ended, at last: what a cluster puts back into the queue ends more than once."""
    path = folder / "jobs.csv"
    if not path.exists():
        return pd.DataFrame(columns=list(FIELDS))
    return pd.read_csv(path, names=FIELDS, dtype=str).fillna("").drop_duplicates("job", keep="last")


class JobTable(Callback):
    """Hydra's callback that prints the progress of a multirun and, at the end, a table of its jobs."""

    def __init__(self) -> None:
        self.began = time.time()
        self.total: int | None = None
        self.swept = set[str]()
        self.over = threading.Event()

    def __getstate__(self) -> dict[str, Any]:  # it is sent to other processes with a job
        return {name: value for name, value in vars(self).items() if name != "over"}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        hydra = config.hydra
        params = [f"{name}={value}" for name, value in (hydra.sweeper.get("params") or {}).items()]
        self.total, self.swept = count_jobs([*params, *hydra.overrides.task])
        if "joblib" in hydra.launcher._target_:
            signals.install_in_joblib()
        folder = Path(hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self.follow, args=(folder,), daemon=True).start()

    def follow(self, folder: Path) -> None:
        """Prints how jobs end, in whatever process."""
        seen = 0
        while not self.over.wait(1):
            rows = read(folder)
            rows = rows[~rows.status.str.startswith("requeued")]
            for row in rows.iloc[seen:].itertuples(index=False):
                print(f"{self.name(row.overrides)}: {row.status}", file=sys.stderr)
            if len(rows) > seen:
                spent, left = time.time() - self.began, ""
                if self.total:
                    left = f", about {clock(spent / len(rows) * (self.total - len(rows)))} left"
                print(f"{len(rows)} of {self.total or '?'} jobs, {clock(spent)}{left}", file=sys.stderr)
            seen = len(rows)

    def name(self, overrides: str) -> str:
        """The overrides in which a job differs from the others."""
        return " ".join(o for o in overrides.split() if o.split("=")[0] in self.swept) or overrides

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self.over.set()
        folder = Path(config.hydra.sweep.dir)
        rows, table = read(folder), Table(*FIELDS)
        for row in rows.itertuples(index=False):
            table.add_row(*map(Text, row._replace(overrides=self.name(row.overrides))))
            count_in(row.status.partition(":")[0])
        Console(stderr=True).print(table)
        print(folder / "jobs.csv", file=sys.stderr)


def count_jobs(overrides: list[str]) -> tuple[int | None, set[str]]:
    """The number of jobs of a grid, None where a sweeper decides, and the settings that are swept."""
    last = {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(overrides)}
    swept = {name: o for name, o in last.items() if o.is_sweep_override()}
    try:
        return math.prod(len(list(o.sweep_string_iterator())) for o in swept.values()), set(swept)
    except HydraException:  # an interval
        return None, set(swept)


def clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
