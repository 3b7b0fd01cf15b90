"""Which differences are real: methods compared on the same test tasks, in pairs.

All methods see the same tasks of a seed, so that a task's difficulty cancels in the difference of two scores on it.

Shape suffixes: S seeds, N tasks of a seed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fewshot.results.statistics import half_width, largest_share

LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """One row of a column less another, over the seeds that both have.

    Attributes:
        difference: of the means, first less second.
        of_tasks: half-width of its 95% interval over tasks: what these runs, as they are trained, do on other tasks.
        of_seeds: over seeds: what other runs of these methods do; None with one seed. With three it is wide.
        p_tasks, p_seeds: of no difference, by t-tests, Holm's correction over all pairs of the study included.
        effect: the difference in standard deviations of a task's (Cohen's d for pairs).
        worst: the share of all differences' sizes that a single one of `tasks` has.
        better: the name of the better row, by its mean.
    """

    where: str
    first: str
    second: str
    difference: float
    of_tasks: float
    of_seeds: float | None
    p_tasks: float
    p_seeds: float | None
    effect: float
    worst: float
    tasks: int
    seeds: int
    better: str


def paired(difference_SN: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, intervals, raw p-values and effect of paired differences."""
    seeds_S = difference_SN.mean(1)
    pooled = difference_SN.ravel()
    several = len(seeds_S) > 1
    return {
        "difference": float(pooled.mean()),
        "of_tasks": float(half_width(pooled)) if len(pooled) > 1 else np.nan,
        "of_seeds": float(half_width(seeds_S)) if several else None,
        "p_tasks": p_value(pooled),
        "p_seeds": p_value(seeds_S) if several else None,
        "effect": float(pooled.mean() / sd) if len(pooled) > 1 and (sd := pooled.std(ddof=1)) else 0.0,
        "tasks": pooled.size,
        "worst": largest_share(pooled),
    }


def p_value(differences: NDArray[np.float64]) -> float:
    if len(differences) == 1:  # which says nothing of any other
        return 1.0
    if np.ptp(differences) == 0:  # of which scipy makes NaN
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def pairs(runs: pd.DataFrame) -> list[Pair]:
    """Every two rows in every column in which both have scores of a seed in common."""
    found = []
    for where, scores in by_column(runs):
        lower = where_lower_is_better(runs)
        for first, second in combinations(scores, 2):
            common = sorted(set(scores[first]) & set(scores[second]))
            rows = [(scores[first][s], scores[second][s]) for s in common]
            rows = [(one, other) for one, other in rows if len(one) == len(other)]
            if not rows:
                continue
            told = paired(np.array([one - other for one, other in rows]))
            better = first if (told["difference"] < 0) == lower else second
            found.append(Pair(where, first, second, **told, seeds=len(rows), better=better))
    return corrected(found)


def corrected(found: list[Pair]) -> list[Pair]:
    """The pairs with Holm's correction of both p-values."""
    new = [vars(pair).copy() for pair in found]
    for name in ("p_tasks", "p_seeds"):
        with_one = [pair for pair in new if pair[name] is not None]
        if with_one:
            holm = multipletests([pair[name] for pair in with_one], LEVEL, "holm")[1]
            for pair, p in zip(with_one, holm, strict=True):
                pair[name] = float(p)
    return [Pair(**pair) for pair in new]


def ranks(runs: pd.DataFrame) -> pd.Series:
    """Each row's mean rank, 1 is best, over the columns and seeds in which every row that has a score has one."""
    found, rows = [], runs.loc[runs["scores"].notna(), "name"].nunique()
    for _, scores in by_column(runs):
        for seed in set.intersection(*(set(of_row) for of_row in scores.values())):
            means = pd.Series({name: of_row[seed].mean() for name, of_row in scores.items()})
            if len(means) == rows:
                found.append(means.rank(ascending=where_lower_is_better(runs)))
    return pd.concat(found, axis=1).mean(axis=1).sort_values() if found else pd.Series(dtype=float)


def by_column(runs: pd.DataFrame) -> Iterator[tuple[str, Mapping[str, Mapping[int, NDArray[np.float64]]]]]:
    """(column, {row: {seed: the scores of its tasks}})."""
    done = runs[runs["scores"].notna()]
    for where, cells in done.groupby("column", sort=False):
        yield (
            str(where),
            {
                str(name): dict(zip(rows["seed"], rows["scores"], strict=True))
                for name, rows in cells.groupby("name", sort=False)
            },
        )


def where_lower_is_better(runs: pd.DataFrame) -> bool:
    return "mse" in set(runs["metric"].dropna())


def verdict(found: list[Pair]) -> str:
    """Which differences are real at 95%, in words."""

    def told(name: str) -> str:
        real = [pair for pair in found if (p := getattr(pair, name)) is not None and p < LEVEL]
        said = [
            f"{pair.better} over {pair.second if pair.better == pair.first else pair.first} ({pair.where})"
            for pair in real
        ]
        return "; ".join(said) if said else "none shown"

    number = f"{len(found)} pairs" if len(found) > 1 else "one pair"
    words = f"Real at 95% after Holm's correction over {number}, between the runs as they are: "
    words += f"{told('p_tasks')}."
    if any(pair.p_seeds is not None for pair in found):
        words += f" Between methods, as their means over further seeds: {told('p_seeds')}."
    return words
