"""All tests of a folder as a data frame."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from fewshot.report.runs import read_scores
from fewshot.results.paper import paper_figure
from fewshot.results.record import as_options, read_result


def load(folder: str | Path) -> pd.DataFrame:
    """Every test under `folder`, one row each, for notebooks: of each run its own, and what evaluate.py added.

    The columns are what `result.json` and the files of `evaluations` hold; `changed` as the command line takes it,
    `paper`, its number where the protocol is its own, `folder`, the run's, and `scores`, the score of every test task
    in the order of their numbers. What is no result is named on stderr and left out.
    """
    rows, home = [], Path(folder).expanduser()
    for path in sorted([*home.rglob("result.json"), *home.rglob("evaluations/*.json")]):
        result = read_result(path)
        if result is None:
            print(f"{path} is not the result of a run: left out", file=sys.stderr)
            continue
        own = path.name == "result.json"
        row: dict[str, Any] = {"changed": as_options(result["changed"]), "paper": paper_figure(result)}
        row |= {"folder": str(path.parent if own else path.parents[1])}
        row |= {"scores": read_scores(path.with_name("test_scores.csv") if own else path.with_suffix(".csv"))}
        rows.append(result | row)
    return pd.DataFrame(rows)
