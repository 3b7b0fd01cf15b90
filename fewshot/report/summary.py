"""A study's table: each row and column's score over its seeds, both intervals, and the paper's beside it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fewshot.results.statistics import half_width

ROUNDED = 0.0005  # what the paper prints as .000 is less
NOT_RUN = {"timeout": "-", "missing": "·"}  # what a table shows for cells without a score; others by their name


@dataclass(frozen=True)
class Summary:
    """A row's score in a column.

    Attributes:
        mean: of all tasks of all seeds.
        of_tasks: half-width of the 95% interval over all these tasks, as the paper's tables have it.
        of_seeds: of that over the seeds' means, as its Figures 5 and B have it; None with one seed.
        seeds: those that have a score; `asked` is how many the study has.
        status: of the cells without one.
        shrunk: whether they are less than the paper's.
    """

    mean: float
    of_tasks: float
    of_seeds: float | None
    seeds: tuple[int, ...]
    asked: int
    status: tuple[str, ...]
    metric: str
    paper: float | None
    paper_ci95: float | None
    paper_seeds: float | None
    parameters: int | None
    seconds: float | None
    shrunk: bool

    @property
    def difference(self) -> float | None:
        return None if self.paper is None or np.isnan(self.mean) else self.mean - self.paper

    @property
    def meets(self) -> bool | None:
        """Whether the two intervals over tasks have a point in common; None where one of them is not known."""
        if self.difference is None or self.paper_ci95 is None:
            return None
        return abs(self.difference) <= self.of_tasks + (self.paper_ci95 or ROUNDED)


def column(row: Any) -> str:
    where = row.data if row.data == row.trained_on else f"{row.trained_on} → {row.data}"
    return f"{where} {row.shots}-shot"


def summarise(runs: pd.DataFrame) -> dict[str, dict[str, Summary]]:
    """{row: {column: its summary}}, in the order of the study."""
    table = dict[str, dict[str, Summary]]()
    columns = runs.apply(column, axis=1)
    for (name, where), cells in runs.groupby([runs["name"], columns], sort=False):
        table.setdefault(str(name), {})[str(where)] = summary(cells)
    return table


def summary(cells: pd.DataFrame) -> Summary:
    done = cells[cells["scores"].notna()]
    mean = of_tasks = float("nan")
    of_seeds = None
    if len(done):
        pooled = np.concatenate(list(done["scores"]))
        mean, of_tasks = float(pooled.mean()), float(half_width(pooled))
        of_seeds = float(half_width(done["mean"].to_numpy(float))) if len(done) > 1 else None

    def first(name: str, among: pd.DataFrame = done) -> Any:
        there = list(among[name].dropna()) if name in among else []
        return there[0] if there else None

    return Summary(
        mean=mean,
        of_tasks=of_tasks,
        of_seeds=of_seeds,
        seeds=tuple(done["seed"]),
        asked=len(cells),
        status=tuple(sorted(set(cells[cells["scores"].isna()]["status"]))),
        metric=str(first("metric") or ""),
        paper=first("paper", cells),
        paper_ci95=first("paper_ci95", cells),
        paper_seeds=first("paper_seeds", cells),
        parameters=None if (parameters := first("parameters")) is None else int(parameters),
        seconds=float(done["train_seconds"].mean()) if len(done) and done["train_seconds"].notna().any() else None,
        shrunk=bool(cells["shrunk"].any()),
    )
