"""The paper's numbers, `paper.csv`: each with the settings under which it was measured.

A `value` is a mean over three runs, unrounded where the paper's stored results have it: mean squared error
on sine, accuracy in % elsewhere. `ci95` is the half-width of the 95% interval over the tasks of all three
runs, as printed; `seeds_ci95` of that over the means of the seeds (Tables B4 to B6); `parameters` counts
weights (Tables 1 to 3); `minutes` is the time of a run on one RTX 2080 Ti (Table B3); `settings` is what
differs from the published settings.
"""

import csv
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

NUMBERS = ("value", "ci95", "seeds_ci95", "parameters", "minutes")


def bn_in_test(result: Mapping[str, Any]) -> str:
    """The statistics that normalised the queries in the test, if training used others."""
    bn = result.get("bn", "")
    return "" if result.get("train_bn") in (None, bn) else bn


def comparison_key(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Two scores are of the same experiment, or one is beside the paper's, only where these are equal."""
    names = ("method", "variant", "trained_on", "data", "ways", "shots", "val_shots", "test_queries", "tasks")
    settings = json.dumps(result["config_diff"], sort_keys=True)
    status = result.get("run_status", result["status"])
    return (*(result[name] for name in names), settings, status, bn_in_test(result))


@cache
def paper_table() -> dict[tuple[Any, ...], dict[str, float | None]]:
    table = {}
    for row in read_csv("paper.csv"):
        result: dict[str, Any] = {name: row[name] for name in ("method", "trained_on", "data")}
        result |= {name: int(row[name]) for name in ("ways", "shots", "tasks")}
        result |= {"val_shots": result["shots"], "test_queries": int(row["queries"]), "variant": "released"}
        result |= {"config_diff": json.loads(row["settings"]), "status": "finished"}
        numbers = {name: float(row[name]) if row[name] else None for name in NUMBERS}
        table[comparison_key(result)] = numbers
    return table


def paper_numbers(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The NUMBERS of the paper for a result; None where the paper has no such experiment."""
    return paper_table().get(comparison_key(result), dict.fromkeys(NUMBERS))


def paper_figure(result: Mapping[str, Any]) -> float | None:
    return paper_numbers(result)["value"]


def has_table(method: str, data: str) -> bool:
    """Whether the paper has numbers of a method trained and tested on a data set."""
    return any((key[0], key[2], key[3]) == (method, data, data) for key in paper_table())


def figure_6() -> dict[str, dict[int, float]]:
    """Of OP-LSTM on mini 1-shot, {measure: {validation: value}}: 0 is before training, 32 the last."""
    curves = dict[str, dict[int, float]]()
    for row in read_csv("paper_figure6.csv"):
        curves.setdefault(row["measure"], {})[int(row["validation"])] = float(row["value"])
    return curves


def read_csv(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
