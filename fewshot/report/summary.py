"""A study's table: each row and column's score over its seeds, both intervals, and the paper's beside it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fewshot.results.statistics import half_width, largest_share

ROUNDED = {
    "mse": 0.0005,
    "accuracy": 0.005,
}  # by how much the paper's half-widths may differ from what it prints
CARRIES = (
    0.05  # the share of a mean, or of differences, that one of thousands of tasks may have, of fewer more
)
NOT_RUN = {
    "timeout": "-",
    "missing": "·",
}  # what a table shows for cells without a score; others by their name


@dataclass(frozen=True)
class Summary:
    """A row's score in a column.

    Attributes:
        mean: of all tasks of all seeds.
        of_tasks: half-width of the 95% interval over all these tasks, as the paper's tables have it.
        of_seeds: of that over the seeds' means, as its Figures 5 and B have it; None with one seed.
        seeds: those that have a score; `asked` is how many the study has, `tasks` their tasks together.
        status: of the cells without one.
        worst: the share of the mean that a single task has, and `median` the middle task.
        paper, paper_ci95, paper_seeds, paper_parameters, paper_minutes: as published.
        reduced: whether they are less than the paper's.
    """

    mean: float
    of_tasks: float
    of_seeds: float | None
    seeds: tuple[int, ...]
    asked: int
    tasks: int
    status: tuple[str, ...]
    metric: str
    worst: float
    median: float
    paper: float | None
    paper_ci95: float | None
    paper_seeds: float | None
    parameters: int | None
    paper_parameters: int | None
    train_tasks: float | None
    minutes: float | None
    paper_minutes: float | None
    tasks_per_second: float | None
    peak_memory_bytes: float | None
    reduced: bool

    @property
    def difference(self) -> float | None:
        return None if self.paper is None or np.isnan(self.mean) else self.mean - self.paper

    @property
    def meets(self) -> bool | None:
        """Whether the two intervals over tasks may have a point in common, as far as the paper's digits tell; None
        where one of them is not known."""
        if self.difference is None or self.paper is None or self.paper_ci95 is None:
            return None
        of_paper = self.paper_ci95 + ROUNDED[self.metric]
        return abs(self.difference) <= self.of_tasks + of_paper + half_a_digit(self.paper)


def carries(worst: float, tasks: int) -> bool:
    """Whether a single task has more than may be."""
    return worst * tasks > max(CARRIES * tasks, 100)


def half_a_digit(printed: float) -> float:
    """By how much a number may differ from what it was printed as: 0.04 by 0.005."""
    return float(0.5 * 10.0 ** -len(repr(printed).partition(".")[2]))


def summarise(runs: pd.DataFrame) -> dict[str, dict[str, Summary]]:
    """{row: {column: its summary}}, in the order of the study."""
    table = dict[str, dict[str, Summary]]()
    for (name, where), cells in runs.groupby(["name", "column"], sort=False):
        table.setdefault(str(name), {})[str(where)] = summary(cells)
    return table


def summary(cells: pd.DataFrame) -> Summary:
    done = cells[cells["scores"].notna()]
    pooled = np.concatenate([*done["scores"], [np.nan] * done.empty])
    of_seeds = float(half_width(done["mean"].to_numpy(float))) if len(done) > 1 else None

    def first(name: str) -> Any:
        there = list(cells[name].dropna()) if name in cells else []
        return there[0] if there else None

    def mean(name: str) -> float | None:
        return float(done[name].mean()) if name in done and done[name].notna().any() else None

    return Summary(
        mean=float(pooled.mean()),
        of_tasks=float(half_width(pooled)) if len(pooled) > 1 else float("nan"),
        of_seeds=of_seeds,
        seeds=tuple(done["seed"]),
        asked=len(cells),
        tasks=sum(map(len, done["scores"])),
        status=tuple(sorted(set(cells[cells["scores"].isna()]["status"]))),
        metric=first("metric"),
        worst=largest_share(pooled),
        median=float(np.median(pooled)),
        paper=first("paper"),
        paper_ci95=first("paper_ci95"),
        paper_seeds=first("paper_seeds"),
        parameters=None if (parameters := first("parameters")) is None else int(parameters),
        paper_parameters=None if (published := first("paper_parameters")) is None else int(published),
        train_tasks=mean("train_tasks"),
        minutes=None if (seconds := mean("train_seconds")) is None else seconds / 60,
        paper_minutes=first("paper_minutes"),
        tasks_per_second=mean("tasks_per_second"),
        peak_memory_bytes=mean("peak_memory_bytes"),
        reduced=bool(cells["reduced"].any()),
    )
