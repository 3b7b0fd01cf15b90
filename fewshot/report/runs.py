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
OF_TEST = ("data", "ways", "shots", "test_queries", "tasks", "bn")  # tells the tests of a run apart


def runs_of(jobs: Iterable[Job], queries: int | None = None) -> pd.DataFrame:
    """One row per job and test, run or not: protocol, status of the run, scores, and the paper's numbers.

    With `queries` the rows are the tests that evaluate.py made with so many queries a class.
    """
    rows = []
    for job in jobs:
        for planned in job.tests:
            test = planned | ({} if queries is None else {"test_queries": queries})
            data = {"path": str(job.cfg.data.get("path", "")), "sign": job.cfg.data.get("sign", 1)}
            row = {
                "name": job.name,
                "column": "",
                "study": job.cfg.study,
                "seed": job.cfg.seed,
                **data,
                **test,
            }
            row |= {f"paper_{name}": value for name, value in paper_numbers(test).items()}
            row |= {"reduced": job.reduced, "metric": job.metric}
            rows.append(row | outcome(job.folder, test, job.tests[0]))
    runs = pd.DataFrame(rows).rename(columns={"paper_value": "paper"})
    runs["column"] = columns(runs)
    return runs


def columns(runs: pd.DataFrame) -> list[str]:
    """The column of each row, as `mini → cub 1-shot`; only tests on the same tasks share one."""
    data = runs["trained_on"].where(
        runs["trained_on"] == runs["data"], runs["trained_on"] + " → " + runs["data"]
    )
    where = data + " " + runs["shots"].astype(str) + "-shot"
    waves = "sin(x " + runs["sign"].map({1: "+", -1: "-"}) + " p)"
    details = {
        "ways": runs["ways"].astype(str) + "-way",
        "queries": runs["test_queries"].map(
            lambda queries: f"{queries} quer{'y' if queries == 1 else 'ies'}"
        ),
        "tasks": runs["tasks"].astype(str) + " tasks",
        "waves": waves.where(runs["data"] == "sine", ""),
        "path": runs["path"],
    }
    shown = pd.DataFrame(details)
    differ = shown.groupby(where).transform("nunique") > 1
    return [", ".join([where[row], *shown.loc[row][differ.loc[row]]]) for row in runs.index]


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
        result = read_result(scores.with_suffix(".json"))
        if result is None:
            return row | {"status": "untested"}
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
                continue
            csv = path.with_name("test_scores.csv") if place == path else place.with_suffix(".csv")
            row = {"config_diff": as_overrides(test["config_diff"]), "paper": paper_figure(test)}
            row |= {"scores": read_scores(csv) if csv.exists() else None, "folder": str(path.parent)}
            rows.append(test | row)
    tests = pd.DataFrame(rows)
    return tests if tests.empty else tests.drop_duplicates(["folder", *OF_TEST], ignore_index=True)
