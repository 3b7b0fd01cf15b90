"""All tests of a folder as a data frame."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot.errors import UserError
from fewshot.results.paper import paper_figure
from fewshot.results.record import as_options, read_result

OF_TEST = ("data", "ways", "shots", "test_queries", "tasks", "bn")  # what tells the tests of a run apart


def load(folder: str | Path) -> pd.DataFrame:
    """Every run under `folder` and every test that evaluate.py added, one row each, for notebooks.

    The columns are those of `read_test`; `changed` as the command line takes it, `paper`, its number where the protocol
    is its own, and `folder`, the run's. A run's own test made again is no further row. What is no result, or of a state
    before the run's best, is named on stderr and left out.

    Raises:
        UserError: there is no such folder.
    """
    rows, best, home = [], dict[Path, Any](), Path(folder).expanduser()
    if not home.is_dir():
        raise UserError(f"{home} is no folder: give one of runs, as outputs")
    for path in [*sorted(home.rglob("result.json")), *sorted(home.rglob("evaluations/*.json"))]:
        test = read_test(path)
        if test is None:
            print(f"{path} is not the result of a run: left out", file=sys.stderr)
            continue
        own = path.name == "result.json"
        if own:
            best[path.parent] = test.get("best_step")
        elif (step := test.get("best_step")) != best.get(path.parents[1], step):
            print(f"{path} is of an earlier state of the run: left out", file=sys.stderr)
            continue
        row = {"config_diff": as_options(test["config_diff"]), "paper": paper_figure(test)}
        rows.append(test | row | {"folder": str(path.parent if own else path.parents[1])})
    frame = pd.DataFrame(rows)
    return frame if frame.empty else frame.drop_duplicates(["folder", *OF_TEST], ignore_index=True)


def read_test(path: Path) -> dict[str, Any] | None:
    """What `result.json`, or a file of `evaluations`, holds; None where that is no result.

    With `scores`, the score of every test task in the order of their numbers; None where there are none, or others than
    those that the result is of.
    """
    if (result := read_result(path)) is None:
        return None
    scores = read_scores(
        path.with_name("test_scores.csv") if path.name == "result.json" else path.with_suffix(".csv")
    )
    mean, tasks = result["mean"], result["tasks"]
    same = (
        scores is not None and mean is not None and len(scores) == tasks and np.isclose(scores.mean(), mean)
    )
    return result | {"scores": scores if same else None}


def read_scores(path: Path) -> NDArray[np.float64] | None:
    """The score of every test task, in the order of their numbers; None where the file is not a run's."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {int(row["task"]): float(row["score"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return np.array([rows[task] for task in sorted(rows)]) if sorted(rows) == list(range(len(rows))) else None
