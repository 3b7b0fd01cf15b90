"""The paper's numbers, `paper.csv`, joined to results by the experiment that they are of.

A `value` is a mean over three runs: mean squared error on sine, accuracy in % elsewhere. `ci95` is the
half-width of the 95% interval over the tasks of all runs, `seeds_ci95` of that over the means of the seeds
(Tables B4 to B6); `parameters` counts weights (Tables 1 to 3); `minutes` are on an RTX 2080 Ti (Table B3).
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

NUMBERS = ("value", "ci95", "seeds_ci95", "parameters", "minutes")
EXPERIMENT = ["method", "variant", "trained_on", "data", "ways", "shots", "val_shots"]
EXPERIMENT += ["test_queries", "tasks"]


def read_csv(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(name))


def bn_in_test(result: Mapping[str, Any]) -> str:
    """The statistics that normalised the queries in the test, if training used others."""
    bn = result.get("bn", "")
    return "" if result.get("train_bn") in (None, bn) else bn


def comparison_key(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Two results are of the same experiment only where these are equal."""
    settings = json.dumps(result["config_diff"], sort_keys=True)
    status = result.get("run_status", result["status"])
    return (*(result[name] for name in EXPERIMENT), settings, status, bn_in_test(result))


@cache
def paper_table() -> dict[tuple[Any, ...], dict[str, float]]:
    table = read_csv("paper.csv")
    table["config_diff"] = table["config_diff"].map(json.loads)
    table = table.assign(variant="released", val_shots=table["shots"], status="finished")
    return {comparison_key(row): {name: row[name] for name in NUMBERS} for row in table.to_dict("records")}


def paper_numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The paper's NUMBERS for a result; none where the paper has no such experiment."""
    return paper_table().get(comparison_key(result), {})
