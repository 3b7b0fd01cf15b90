"""A study's tables: scores over seeds beside the paper's, and pairs of methods on the same test tasks.

Shape suffixes: S seeds, N tasks of a seed.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fewshot.results.record import half_width

SCORES, WIDTHS = {"mse": ".3g", "accuracy": ".2f"}, {"mse": ".2g", "accuracy": ".2f"}  # formats
IN_FULL = "name column seeds jobs mean ci95_tasks ci95_seeds median one_task paper paper_ci95 "
IN_FULL += "paper_seeds_ci95 difference status"
PAIRS = "first less column seeds difference ci95_tasks ci95_seeds p_tasks p_wilcoxon p_seeds significant "
PAIRS += "effect median_difference tasks_won one_task"
COSTS = "name column parameters paper_parameters train_tasks minutes paper_minutes tasks_per_second peak_mb"
FORMATS = dict.fromkeys(("seeds", "jobs", *COSTS.split()), ",.0f")
FORMATS |= {"one_task": ".0%", "tasks_won": ".1%", "effect": ".2f", "minutes": ".1f"}
P_VALUES = ["p_tasks", "p_wilcoxon", "p_seeds"]


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per row and column of the study's table.

    `mean` is over all tasks of all seeds, `ci95_tasks` the half-width of its 95% interval over these tasks,
    as in the paper's tables, and `ci95_seeds` that over the means of the seeds. `one_task` is the share of
    the error that a single task has, where that makes `ci95_tasks` too narrow. `jobs` counts what the study
    defines, `seeds` what has a score, and `status` says why others have none.
    """
    lines = []
    for _, cell in runs.groupby(["name", "column"], sort=False):
        done, first = cell[cell["scores"].notna()], cell.iloc[0]
        scores = pd.Series(np.concatenate([*done["scores"], []]))
        line = first[["name", "column", "metric", *runs.filter(like="paper")]].to_dict()
        line |= {"mean": scores.mean(), "ci95_tasks": half_width(scores)}
        line |= {"ci95_seeds": half_width(done["mean"]), "median": scores.median()}
        line |= {"one_task": one_task(scores, first["metric"]), "seeds": len(done), "jobs": len(cell)}
        line |= {"status": ", ".join(sorted(set(cell.drop(done.index)["status"])))}
        line |= {"reduced": cell["reduced"].any(), "minutes": done["train_seconds"].mean() / 60}
        line |= {"peak_mb": done["peak_memory_bytes"].mean() / 1e6}
        line |= done[["parameters", "train_tasks", "tasks_per_second"]].mean().to_dict()
        lines.append(line | {"difference": line["mean"] - line["paper"]})
    return pd.DataFrame(lines)


def one_task(scores: Any, metric: str) -> float:
    """The share of all errors that a single task has; NaN up to 5%, or 100 / tasks below 2 000 tasks."""
    sizes = np.abs(scores)
    share = sizes.max() / sizes.sum() if sizes.any() else 0.0
    return share if metric == "mse" and share > 0.05 and share * np.size(scores) > 100 else np.nan


def number(value: Any, form: str) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else f"{value:{form}}"


def p_text(p: float) -> str:
    return "<1e-16" if p < 1e-16 else number(p, ".2g")


def as_text(lines: pd.DataFrame, columns: str) -> pd.DataFrame:
    """Columns of `lines` as text, under their headings; empty ones are left out."""
    score = SCORES[lines["metric"].iloc[0]]
    forms = FORMATS | dict.fromkeys(("difference", "median_difference"), f"+{score}")
    names = columns.split()
    lines = lines.assign(**{name: lines[name].map(p_text) for name in P_VALUES if name in names})
    frame = pd.DataFrame({name: [number(x, forms.get(name, score)) for x in lines[name]] for name in names})
    frame = frame.loc[:, frame.ne("").any()].rename(columns={names[0]: ""})
    return frame.rename(columns=lambda name: name.replace("ci95_", "± ").replace("_", " "))


def score(line: Mapping[str, Any]) -> str:
    """`79.89 ± 0.96, ± 1.82 [84.27 ± 0.90, ± 3.18]`: ours with both intervals, and the paper's."""
    metric, ours = line["metric"], line["status"].replace("timeout", "-").replace("missing", "·")
    if line["seeds"]:
        ours = with_intervals(line["mean"], line["ci95_tasks"], line["ci95_seeds"], metric)
        if line["reduced"]:
            ours += "*"
        if line["seeds"] < line["jobs"]:
            ours += f" ({line['seeds']}/{line['jobs']})"
    over_tasks = "<0.0005" if line["paper_ci95"] == 0 else line["paper_ci95"]
    paper = with_intervals(line["paper"], over_tasks, line["paper_seeds_ci95"], metric)
    return f"{ours} [{paper}]" if paper else ours


def with_intervals(mean: float, over_tasks: float | str, over_seeds: float, metric: str) -> str:
    tasks, seeds = (number(width, WIDTHS[metric]) for width in (over_tasks, over_seeds))
    text = number(mean, SCORES[metric])
    if tasks:
        text += f" ± {tasks}"
    if seeds:
        text += f", ± {seeds}"
    return text


def as_published(table: pd.DataFrame) -> pd.DataFrame:
    """Rows and columns as the paper has them."""
    cells = table.assign(score=list(map(score, table.to_dict("records"))))
    wide = cells.pivot_table("score", "name", "column", aggfunc="first", fill_value="", sort=False)
    return wide.rename_axis(columns=None).reset_index(names="")


def paired(difference_SN: np.ndarray, metric: str) -> dict[str, Any]:
    """Mean, intervals, uncorrected p-values and Cohen's d of paired differences, and how many tasks are won.

    Errors have heavy tails, so they get Wilcoxon's signed-rank test as well, over tasks.
    """
    seeds_S, pooled, error = difference_SN.mean(1), difference_SN.ravel(), metric == "mse"
    return {
        "seeds": len(seeds_S),
        "difference": pooled.mean(),
        "ci95_tasks": half_width(pooled),
        "ci95_seeds": half_width(seeds_S),
        "p_tasks": p_value(t_test, pooled),
        "p_wilcoxon": p_value(stats.wilcoxon, pooled) if error else np.nan,
        "p_seeds": p_value(t_test, seeds_S),
        "effect": pooled.mean() / pooled.std(ddof=1) if np.ptp(pooled) else 0.0,
        "median_difference": np.median(pooled),
        "tasks_won": np.mean((pooled < 0 if error else pooled > 0) + (pooled == 0) / 2),  # a tie is half
    }


t_test = partial(stats.ttest_1samp, popmean=0)


def p_value(test: Callable[..., Any], differences: np.ndarray) -> float:
    """Of a test that the differences are around zero; NaN for one difference."""
    if np.ptp(differences) == 0 and (test is t_test or not differences.any()):  # NaN in scipy
        return np.nan if len(differences) == 1 else float(differences[0] == 0)
    return float(test(differences).pvalue)


def pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """Every two rows of a column over the seeds that both have: the first's scores less the second's.

    `ci95_tasks` and `p_tasks` say what these trained runs do on other tasks, `ci95_seeds` and `p_seeds`
    what the methods do when trained again; p-values have Holm's correction over all pairs.
    """
    found = []
    for column, cells in runs[runs["scores"].notna()].groupby("column", sort=False):
        by_seed, metric = cells.pivot(index="seed", columns="name", values="scores"), cells["metric"].iloc[0]
        for first, second in combinations(cells["name"].unique(), 2):
            common = by_seed[[first, second]].dropna()
            if len(common):
                difference_SN = np.stack((common[first] - common[second]).to_list())
                row = {"column": column, "first": first, "less": second, "metric": metric}
                row["one_task"] = one_task(difference_SN, metric)
                found.append(row | paired(difference_SN, metric))
    return corrected(pd.DataFrame(found)) if found else pd.DataFrame()


def corrected(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs with Holm's correction of each kind of p-value, and by which t-test they differ (5%) after it."""
    pairs["significant"] = ""
    for name in P_VALUES:
        p = pairs[name].dropna()
        pairs[name] = pd.Series(multipletests(p, method="holm")[1], p.index)
    for over in ("tasks", "seeds"):
        pairs.loc[pairs[f"p_{over}"] < 0.05, "significant"] += f"{over} "
    return pairs


def ranks(runs: pd.DataFrame) -> pd.DataFrame:
    """Each row's mean rank, 1 is best, over the columns and seeds in which every row with a score has one.

    Columns of a single seed are left out.
    """
    done = runs[runs["scores"].notna()]
    means = done.pivot(index=["column", "seed"], columns="name", values="mean").dropna()
    means = means.groupby("column").filter(lambda cells: len(cells) > 1)
    if means.empty:
        return means
    rank = means.rank(axis=1, ascending="mse" in set(done["metric"])).mean().sort_values()
    return pd.DataFrame({"": rank.index, "rank": rank.map("{:.2f}".format), "cells": str(len(means))})
