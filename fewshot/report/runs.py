"""Data frames of tests: those of a study's jobs, run or not, and all that lie under a folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewshot.errors import UserError
from fewshot.report.jobs import Job
from fewshot.results.paper import NUMBERS, comparison_key, paper_figure, paper_numbers
from fewshot.results.record import as_overrides, read_result

COSTS = ["parameters", "train_tasks", "train_seconds", "tasks_per_second", "peak_memory_bytes"]
OF_RUN = [*COSTS, "best_validation", "warnings", "status"]
OF_TEST = ["mean", "ci95", "scores", "device", "threads", "versions", "git_commit"]


def stored_tests(folder: Path) -> list[dict[str, Any]]:
    """A run's result and those that evaluate.py added for the same state, with the score of every task."""
    found = []
    for path in [folder / "result.json", *sorted(folder.glob("evaluations/*.json"))]:
        if (test := read_result(path)) is None:
            break  # the run has no result
        csv = path.with_name("test_scores.csv") if path.parent == folder else path.with_suffix(".csv")
        scores = np.loadtxt(csv, delimiter=",", skiprows=1, usecols=1, ndmin=1) if csv.exists() else None
        found.append(test | {"folder": str(folder), "scores": scores})
    return [test for test in found if test.get("best_step") == found[0].get("best_step")]


def load(folder: str | Path) -> pd.DataFrame:
    """All runs under `folder` and all tests that evaluate.py added, one row each, for notebooks.

    The columns are those of `result.json`, with `config_diff` as overrides, and `paper`, the paper's number
    of the same experiment, `scores`, those of all test tasks, and `folder`, the run's. Tests of an earlier
    state than the run's best are left out.
    """
    if not (root := Path(folder).expanduser()).is_dir():
        raise UserError(f"{root} is not a folder: give one of runs, as outputs")
    tests = [test for path in sorted(root.rglob("result.json")) for test in stored_tests(path.parent)]
    for test in tests:
        test |= {"paper": paper_figure(test), "config_diff": as_overrides(test["config_diff"])}
    kind = ["folder", "data", "ways", "shots", "test_queries", "tasks", "bn"]  # a test made again is one row
    return pd.DataFrame(tests).drop_duplicates(kind, ignore_index=True) if tests else pd.DataFrame()


def runs_of(jobs: Iterable[Job], queries: int | None = None) -> pd.DataFrame:
    """One row per job and test, run or not: protocol, status of the run, scores, and the paper's numbers.

    With `queries` the rows are the tests that evaluate.py made with so many queries a class. Tests share a
    `column` only if they are on the same tasks.
    """
    rows = []
    for job in jobs:
        stored, data = stored_tests(job.folder), job.cfg.data
        for planned in job.tests:
            test = planned | ({"test_queries": queries} if queries else {})
            where = " → ".join(dict.fromkeys([test["trained_on"], test["data"]]))
            row = {"name": job.name, "column": f"{where} {test['shots']}-shot", "study": job.cfg.study}
            row |= {"seed": job.cfg.seed, "metric": "mse" if data.name == "sine" else "accuracy"}
            row |= {"reduced": job.reduced, "sign": data.get("sign"), "path": data.get("path")}
            paper = paper_numbers(test)
            row |= {f"paper_{name}": paper.get(name) for name in NUMBERS}
            rows.append(test | row | outcome(job, test, stored))
    runs = pd.DataFrame(rows).rename(columns={"paper_value": "paper"})
    numbers = ["mean", "ci95", "best_validation", *COSTS, *runs.filter(like="paper")]
    runs[numbers] = runs[numbers].astype(float)
    runs["threads"] = runs["threads"].astype("Int64")
    places = runs["column"]
    for name in ("ways", "test_queries", "tasks", "sign", "path"):
        differs = runs.groupby(places)[name].transform("nunique") > 1
        runs["column"] += (f", {name}=" + runs[name].astype(str)).where(differs, "")
    return runs


def outcome(job: Job, test: dict[str, Any], stored: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run's folder holds of a test.

    `status` is how the run ended, or "missing", "unfinished" or "untested": finished without this test.
    """
    row = dict.fromkeys([*OF_RUN, *OF_TEST]) | {"folder": str(job.folder)}
    if not stored:
        return row | {"status": "unfinished" if (job.folder / "last.ckpt").exists() else "missing"}
    row |= {name: stored[0].get(name) for name in OF_RUN}
    for found in stored:
        if comparison_key(found) == comparison_key(test):
            return row | {name: found.get(name) for name in OF_TEST}
    return row | {"status": "untested" if row["status"] == "finished" else row["status"]}
