"""Data frames of tests: those of a study's jobs, run or not, and all that lie under a folder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewshot.errors import UserError
from fewshot.report.jobs import Job
from fewshot.results.paper import comparison_key, paper_figure, paper_numbers
from fewshot.results.record import as_overrides, name_of_test, read_result

MADE_BY = ("device", "threads", "versions", "git_commit")
OF_RUN = (  # what a test's row has of its run's result
    *("parameters", "train_tasks", "train_seconds", "tasks_per_second", "peak_memory_bytes"),
    *("best_validation", "warnings", *MADE_BY),
)


def runs_of(jobs: Iterable[Job], queries: int | None = None) -> pd.DataFrame:
    """One row per job and test, run or not: protocol, status of the run, scores, and the paper's numbers.

    With `queries` the rows are the tests that evaluate.py made with so many queries a class.
    """
    rows, places, details = [], [], []
    for job in jobs:
        for planned in job.tests:
            test = planned | ({} if queries is None else {"test_queries": queries})
            where = " → ".join(dict.fromkeys([test["trained_on"], test["data"]]))
            places.append(f"{where} {test['shots']}-shot")
            details.append(task_details(job, test))
            row = {"name": job.name, "column": "", "study": job.cfg.study, "seed": job.cfg.seed}
            row |= test | {"reduced": job.reduced, "metric": job.metric}
            row |= {f"paper_{name}": value for name, value in paper_numbers(test).items()}
            rows.append(row | outcome(job.folder, test, job.tests[0]))
    runs, all_details = pd.DataFrame(rows).rename(columns={"paper_value": "paper"}), pd.DataFrame(details)
    differ = all_details.groupby(places).transform("nunique") > 1
    for number, place in enumerate(places):  # only tests on the same tasks share a column
        runs.loc[number, "column"] = ", ".join([place, *all_details.loc[number][differ.loc[number]]])
    return runs


def task_details(job: Job, test: Mapping[str, Any]) -> dict[str, str]:
    """What the tasks of a test depend on beside data and shots, in words."""
    queries, data = test["test_queries"], job.cfg.data
    return {
        "ways": f"{test['ways']}-way",
        "queries": "1 query" if queries == 1 else f"{queries} queries",
        "tasks": f"{test['tasks']} tasks",
        "waves": f"sin(x {'+' if data.sign > 0 else '-'} p)" if test["data"] == "sine" else "",
        "path": str(data.get("path", "")),
    }


def outcome(folder: Path, test: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's folder holds of a test, where the run's own test is `own`.

    `status` is how the run ended, or "missing", "unfinished", "untested", or "mismatched": the result there
    is of another protocol, as of an earlier state of the run.
    """
    row: dict[str, Any] = {"folder": str(folder)}
    row |= dict.fromkeys(("status", *OF_RUN, "mean", "ci95", "scores", "tested_by"))
    run = read_result(folder / "result.json")
    if run is None:
        return row | {"status": "unfinished" if (folder / "last.ckpt").exists() else "missing"}
    row |= {name: run.get(name) for name in ("status", *OF_RUN)}
    if run["status"] != "finished":
        return row
    result, scores = run, folder / "test_scores.csv"
    if comparison_key(test) != comparison_key(own):
        scores = folder / "evaluations" / f"{name_of_test(test, test['data'])}.csv"
        if not scores.exists():
            return row | {"status": "untested"}
        result = read_result(scores.with_suffix(".json")) or {}
        row["tested_by"] = {name: result.get(name) for name in MADE_BY}
    if comparison_key(run) != comparison_key(own) or comparison_key(result) != comparison_key(test):
        return row | {"status": "mismatched"}
    return row | {"mean": result["mean"], "ci95": result["ci95"], "scores": read_scores(scores)}


def read_scores(path: Path) -> np.ndarray:
    """The score of every test task, ordered by task number."""
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=1, ndmin=1)


def load(folder: str | Path) -> pd.DataFrame:
    """All runs under `folder` and all tests that evaluate.py added, one row each, for notebooks.

    The columns are those of `result.json`, with `config_diff` as overrides, and `paper`, the paper's number
    of the same experiment, `scores`, those of all test tasks, and `folder`, the run's. Tests of an earlier
    state than the run's best are left out.

    Raises:
        UserError: there is no such folder.
    """
    root, rows = Path(folder).expanduser(), []
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give one of runs, as outputs")
    for path in sorted(root.rglob("result.json")):
        run = read_result(path) or {}
        for place in [path, *sorted(path.parent.glob("evaluations/*.json"))]:
            test = read_result(place) or {}
            if test.get("best_step") != run.get("best_step"):
                continue  # of an earlier state
            csv = path.with_name("test_scores.csv") if place == path else place.with_suffix(".csv")
            row: dict[str, Any] = {"config_diff": as_overrides(test["config_diff"])}
            row |= {"paper": paper_figure(test), "folder": str(path.parent)}
            row |= {"scores": read_scores(csv) if csv.exists() else None}
            rows.append(test | row)
    kind = ["folder", "data", "ways", "shots", "test_queries", "tasks", "bn"]  # a test made again is one row
    return pd.DataFrame(rows).drop_duplicates(kind, ignore_index=True) if rows else pd.DataFrame()
