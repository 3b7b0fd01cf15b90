"""A study's table: the score of each row and column over its seeds, with intervals, and the paper's."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fewshot.results.statistics import half_width

ROUNDING = {"mse": 0.0005, "accuracy": 0.005}  # of the paper's printed half-widths
SYMBOLS = {"timeout": "-", "missing": "·"}  # in place of a score; other statuses are spelled out
IN_FULL = {
    **{"name": "", "column": "on", "seeds": "runs", "jobs": "of", "mean": "mean", "ci95_tasks": "± tasks"},
    **{"ci95_seeds": "± seeds", "median": "median", "one_task": "one task has", "paper": "paper"},
    **{"paper_ci95": "paper ± tasks", "paper_seeds_ci95": "paper ± seeds", "difference": "ours - paper"},
    **{"overlap": "intervals overlap", "status": "no score"},
}
COSTS = {
    **{"name": "", "column": "on", "parameters": "parameters", "paper_parameters": "the paper's"},
    **{"train_tasks": "training tasks", "minutes": "minutes a run", "paper_minutes": "the paper's minutes"},
    **{"tasks_per_second": "training tasks/s", "peak_mb": "peak MB"},
}
FORMATS = {
    **dict.fromkeys(("parameters", "paper_parameters", "train_tasks", "tasks_per_second", "peak_mb"), ",.0f"),
    **{
        "seeds": "d",
        "jobs": "d",
        "minutes": ".1f",
        "paper_minutes": ".0f",
        "one_task": ".0%",
        "difference": "+",
    },
    **{"p_tasks": ".2g", "p_seeds": ".2g", "effect": ".2f"},
}
PAPER = ["paper", "paper_ci95", "paper_seeds_ci95", "paper_parameters", "paper_minutes"]


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per row and column of the study's table.

    `mean` is over all tasks of all seeds, `ci95_tasks` the half-width of its 95% interval over these tasks,
    as in the paper's tables, and `ci95_seeds` that over the means of the seeds. `one_task` is the share of
    the error that a single task has, where that makes `ci95_tasks` too narrow. `jobs` counts what the study
    defines, `seeds` what has a score, and `status` says why others have none.
    """
    groups = runs.groupby(["name", "column"], sort=False)
    return pd.DataFrame([{"name": name, "column": column} | summary(of) for (name, column), of in groups])


def summary(runs: pd.DataFrame) -> dict[str, Any]:
    done = runs[runs["scores"].notna()]
    scores = np.concatenate([*done["scores"], [np.nan] * done.empty])

    def mean(name: str) -> float:
        return pd.to_numeric(done[name]).mean()

    line: dict[str, Any] = {
        "metric": runs["metric"].iloc[0],
        "mean": scores.mean(),
        "ci95_tasks": half_width(scores) if len(scores) > 1 else np.nan,
        "ci95_seeds": half_width(done["mean"].to_numpy(float)) if len(done) > 1 else np.nan,
        "median": np.median(scores),
        "one_task": one_task(scores, runs["metric"].iloc[0]),
        "seeds": len(done),
        "jobs": len(runs),
        "tasks": sum(map(len, done["scores"])),
        "status": ", ".join(sorted(set(runs.loc[runs["scores"].isna(), "status"]))),
        "reduced": runs["reduced"].any(),
        "parameters": mean("parameters"),
        "train_tasks": mean("train_tasks"),
        "minutes": mean("train_seconds") / 60,
        "tasks_per_second": mean("tasks_per_second"),
        "peak_mb": mean("peak_memory_bytes") / 1e6,
    }
    line |= {name: pd.to_numeric(runs[name]).iloc[0] for name in PAPER}
    line["difference"] = line["mean"] - line["paper"]
    line["overlap"] = intervals_overlap(line)
    return line


def one_task(scores: np.ndarray, metric: str) -> float:
    """The share of all errors that a single task has; NaN up to 5%, or 100 / tasks below 2 000 tasks."""
    sizes = np.abs(scores)
    share = sizes.max() / sizes.sum() if sizes.any() else 0.0
    return share if metric == "mse" and share > max(0.05, 100 / len(scores)) else np.nan


def intervals_overlap(line: Mapping[str, Any]) -> str:
    """Whether the intervals over tasks overlap, within the rounding of the paper's digits; "" if unknown."""
    if pd.isna(line["difference"]) or pd.isna(line["paper_ci95"]):
        return ""
    digits = len(repr(float(line["paper"])).partition(".")[2])
    rounding = 0.5 * 10.0**-digits + ROUNDING[line["metric"]]
    overlap = abs(line["difference"]) <= line["ci95_tasks"] + line["paper_ci95"] + rounding
    return "yes" if overlap else "no"


def number(value: Any, metric: str, form: str = "") -> str:
    """As `form` says, or an accuracy with two decimals and an error with three digits; "" for none."""
    if isinstance(value, str) or pd.isna(value):
        return value if isinstance(value, str) else ""
    default = ".2f" if metric == "accuracy" else ".3g"
    return f"{value:{form}}" if form not in ("", "+") else f"{value:{form}{default}}"


def as_text(lines: pd.DataFrame, headings: Mapping[str, str]) -> pd.DataFrame:
    """Columns of `lines` as text under other headings; empty ones are left out."""
    columns = {}
    for name, heading in headings.items():
        form, cells = FORMATS.get(name, ""), zip(lines[name], lines["metric"], strict=True)
        columns[heading] = [number(value, metric, form) for value, metric in cells]
    frame = pd.DataFrame(columns)
    return frame.loc[:, frame.ne("").any()]


def with_width(mean: float, width: float, metric: str) -> tuple[str, str]:
    """A mean and the half-width of its interval with the same decimals: 0.0153 and 0.0007; "" for none."""
    if pd.isna(mean):
        return "", ""
    places = 2 if metric == "accuracy" else max(2 - int(np.floor(np.log10(abs(mean) or 1))), 0)
    least = 10.0**-places
    shown = f"<{least:.{places}f}" if width < least / 2 else f"{width:.{places}f}"
    return f"{mean:.{places}f}", "" if pd.isna(width) else shown


def score(line: Mapping[str, Any]) -> str:
    """`0.0475 ± 0.0030 [0.0406 ± 0.002]`: ours with the interval over tasks, and the paper's."""
    metric, paper = line["metric"], ""
    ours = " ± ".join(filter(None, with_width(line["mean"], line["ci95_tasks"], metric)))
    if not pd.isna(line["paper"]):
        width = f"<{ROUNDING[metric]}" if line["paper_ci95"] == 0 else number(line["paper_ci95"], metric)
        paper = " ± ".join(filter(None, [number(line["paper"], metric), width]))
    if not line["seeds"]:
        ours = ", ".join(SYMBOLS.get(status, status) for status in line["status"].split(", "))
    few = f" ({line['seeds']}/{line['jobs']})" * (0 < line["seeds"] < line["jobs"])
    return ours + "*" * bool(line["reduced"] and line["seeds"]) + few + f" [{paper}]" * bool(paper)


def as_published(table: pd.DataFrame) -> pd.DataFrame:
    """Rows and columns as the paper has them."""
    wide = table.assign(score=list(map(score, table.to_dict("records"))))
    wide = wide.pivot(index="name", columns="column", values="score").rename_axis(columns=None)
    wide = wide.loc[table["name"].unique(), table["column"].unique()]
    return wide.fillna("").reset_index(names="")
