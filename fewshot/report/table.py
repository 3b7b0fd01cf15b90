"""A study's table: the score of each row and column over its seeds, with intervals, and the paper's."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fewshot.results.statistics import half_width

SCORES, WIDTHS = {"mse": ".3g", "accuracy": ".2f"}, {"mse": ".2g", "accuracy": ".2f"}  # formats
SYMBOLS = {"timeout": "-", "missing": "·"}  # in place of a score; other statuses are spelled out
IN_FULL = "name column seeds jobs mean ci95_tasks ci95_seeds median one_task paper paper_ci95 "
IN_FULL += "paper_seeds_ci95 difference status"
COSTS = "name column parameters paper_parameters train_tasks minutes paper_minutes tasks_per_second peak_mb"
FORMATS = dict.fromkeys(("seeds", "jobs", "train_tasks", "tasks_per_second", *COSTS.split()), ",.0f")
FORMATS |= {"one_task": ".0%", "p_tasks": ".2g", "p_seeds": ".2g", "effect": ".2f", "minutes": ".1f"}


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per row and column of the study's table.

    `mean` is over all tasks of all seeds, `ci95_tasks` the half-width of its 95% interval over these tasks,
    as in the paper's tables, and `ci95_seeds` that over the means of the seeds. `one_task` is the share of
    the error that a single task has, where that makes `ci95_tasks` too narrow. `jobs` counts what the study
    defines, `seeds` what has a score, and `status` says why others have none.
    """
    return pd.DataFrame([summary(of) for _, of in runs.groupby(["name", "column"], sort=False)])


def summary(runs: pd.DataFrame) -> dict[str, Any]:
    done, first = runs[runs["scores"].notna()], runs.iloc[0]
    scores = pd.Series(np.concatenate([*done["scores"], []]))
    costs = done[["parameters", "train_tasks", "tasks_per_second"]].mean()
    line: dict[str, Any] = first[["name", "column", "metric", *runs.filter(like="paper")]].to_dict()
    line |= {
        "mean": scores.mean(),
        "ci95_tasks": half_width(scores.to_numpy()),
        "ci95_seeds": half_width(done["mean"].to_numpy()),
        "median": scores.median(),
        "one_task": one_task(scores, first["metric"]),
        "seeds": len(done),
        "jobs": len(runs),
        "status": ", ".join(sorted(set(runs.drop(done.index)["status"]))),
        "reduced": runs["reduced"].any(),
        "minutes": done["train_seconds"].mean() / 60,
        "peak_mb": done["peak_memory_bytes"].mean() / 1e6,
        **costs,
    }
    return line | {"difference": line["mean"] - line["paper"]}


def one_task(scores: Any, metric: str) -> float:
    """The share of all errors that a single task has; NaN up to 5%, or 100 / tasks below 2 000 tasks."""
    sizes = np.abs(scores)
    share = sizes.max() / sizes.sum() if sizes.any() else 0.0
    return share if metric == "mse" and share > 0.05 and share * np.size(scores) > 100 else np.nan


def number(value: Any, form: str) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else f"{value:{form}}"


def as_text(lines: pd.DataFrame, columns: str) -> pd.DataFrame:
    """Columns of `lines` as text, under their headings; empty ones are left out."""
    score = SCORES[lines["metric"].iloc[0]]
    forms = FORMATS | {"difference": f"+{score}"}
    names = columns.split()
    frame = pd.DataFrame({name: [number(x, forms.get(name, score)) for x in lines[name]] for name in names})
    frame = frame.loc[:, frame.ne("").any()].rename(columns={names[0]: ""})
    return frame.rename(columns=lambda name: name.replace("ci95_", "± ").replace("_", " "))


def score(line: Mapping[str, Any]) -> str:
    """`0.0475 ± 0.003 [0.0406 ± 0.002]`: ours with the interval over tasks, and the paper's."""
    form, width_form = SCORES[line["metric"]], WIDTHS[line["metric"]]
    ours = ", ".join(SYMBOLS.get(status, status) for status in line["status"].split(", "))
    if line["seeds"]:
        ours = " ± ".join(filter(None, [number(line["mean"], form), number(line["ci95_tasks"], width_form)]))
        ours += "*" * bool(line["reduced"])
        ours += f" ({line['seeds']}/{line['jobs']})" * (line["seeds"] < line["jobs"])
    width = "<0.0005" if line["paper_ci95"] == 0 else number(line["paper_ci95"], width_form)
    paper = " ± ".join(filter(None, [number(line["paper"], form), width]))
    return f"{ours} [{paper}]" if paper else ours


def as_published(table: pd.DataFrame) -> pd.DataFrame:
    """Rows and columns as the paper has them."""
    wide = table.assign(score=list(map(score, table.to_dict("records"))))
    wide = wide.pivot(index="name", columns="column", values="score").rename_axis(columns=None)
    wide = wide.loc[table["name"].unique(), table["column"].unique()]
    return wide.fillna("").reset_index(names="")
