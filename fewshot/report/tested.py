"""The tests of a study's cells as a data frame: one row a test, run or not."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from fewshot.config.eval_config import further_tests
from fewshot.config.run_id import config_diff, is_reduced
from fewshot.report.frame import read_test
from fewshot.report.runs import Cell
from fewshot.results.paper import FIGURES, INTERVALS, OVER_SEEDS, PARAMETERS, RUNNING_TIMES
from fewshot.results.protocol import Protocol, as_settings, of_queries
from fewshot.training.finished import table_of

MADE_BY = ("device", "threads", "versions", "git_commit")
OF_RUN = (  # what a report takes from a result beside its test
    *("parameters", "train_tasks", "train_seconds", "tasks_per_second", "peak_memory_bytes"),
    *("best_validation", "warnings", *MADE_BY),
)


def of_study(found: Iterable[Cell], queries: int | None = None) -> pd.DataFrame:
    """One row a test of each cell, run or not: how it ended, its score, and the paper's.

    With `queries` the tests are not the study's, but those that evaluate.py made with as many queries a class.
    """
    plans = dict[tuple[str, str, int], tuple[bool, dict[str, Protocol]]]()
    rows, places = [], []
    for cell in found:
        if cell.kind not in plans:
            plans[cell.kind] = is_reduced(cell.cfg), planned(cell.cfg)
        reduced, protocols = plans[cell.kind]
        own = protocols[cell.cfg.data.name]
        for tested, protocol in protocols.items():
            protocol = replace(protocol, queries=queries or protocol.queries)
            row = {
                "study": cell.cfg.study,
                "name": cell.name,
                "trained_on": cell.cfg.data.name,
                "data": tested,
            }
            row |= {
                "method": cell.cfg.method.name,
                "shots": cell.cfg.shots,
                "seed": cell.cfg.seed,
                "reduced": reduced,
            }
            row |= {"metric": cell.metric}
            places.append(place(cell, tested, protocol))
            rows.append(row | published(cell.cfg, protocol) | outcome(cell, tested, protocol, own))
    frame = pd.DataFrame(rows)
    frame.insert(2, "column", columns(pd.DataFrame(places)))
    return frame


def place(cell: Cell, tested: str, protocol: Protocol) -> dict[str, str]:
    """Where a test stands in a table, as `mini → cub 1-shot`, and all else that its tasks depend on."""
    return {
        "at": " → ".join(dict.fromkeys([cell.cfg.data.name, tested])) + f" {cell.cfg.shots}-shot",
        "ways": f"{protocol.ways}-way",
        "queries": of_queries(protocol.queries),
        "tasks": f"{protocol.tasks} tasks",
        "waves": f"sin(x {'+' if cell.cfg.data.sign > 0 else '-'} p)" if tested == "sine" else "",
        "path": str(cell.cfg.data.get("path", "")),
    }


def columns(places: pd.DataFrame) -> list[str]:
    """The names of columns: only of equal tasks have two tests the same one."""
    several = places.groupby("at").transform("nunique") > 1
    return [
        ", ".join([where["at"], *(where[name] for name in several.columns if apart[name])])
        for (_, where), (_, apart) in zip(places.iterrows(), several.iterrows(), strict=True)
    ]


def published(cfg: DictConfig, protocol: Protocol) -> dict[str, float | None]:
    """What the paper has of a test."""
    key = (cfg.method.name, protocol)
    of_a_table = key in FIGURES and not protocol.settings
    return {
        "paper": FIGURES.get(key),
        "paper_ci95": INTERVALS.get(key),
        "paper_seeds": OVER_SEEDS.get(key),
        "paper_parameters": PARAMETERS.get((cfg.data.name, cfg.method.name)) if of_a_table else None,
        "paper_minutes": RUNNING_TIMES.get(key),
    }


def planned(cfg: DictConfig) -> dict[str, Protocol]:
    """The protocol of each test that a run will have, by the name of the tested data."""
    data, settings = cfg.data, as_settings(config_diff(cfg))
    tests = {data.name: data.test_queries} | {table_of(t): t.data.test_queries for t in further_tests(cfg)}
    ways, tasks = data.get("ways", 1), cfg.trainer.num_test_tasks
    common = (ways, cfg.shots, cfg.shots)
    return {
        name: Protocol(data.name, name, *common, queries, tasks, cfg.variant, settings, "finished")
        for name, queries in tests.items()
    }


def outcome(cell: Cell, tested: str, protocol: Protocol, own: Protocol) -> dict[str, Any]:
    """What a run's folder says of a test by `protocol`, where the run's own is by `own`.

    Where it says nothing, `status` is how the run ended, or "missing", "unfinished", "untested", "unreadable", which
    may be its scores alone, or "foreign": of other settings, or a test that evaluate.py made of an earlier state.
    """
    folder = cell.folder
    told: dict[str, Any] = {"folder": str(folder), "status": "missing"}
    told |= dict.fromkeys(
        ("mean", "ci95", "scores", "tested_by")
    )  # the last of further tests than the run's own
    whole = folder / "result.json"
    if not whole.exists():
        return told | {"status": "unfinished" if (folder / "last.ckpt").exists() else "missing"}
    if (run := read_test(whole)) is None:
        return told | {"status": "unreadable"}
    if not is_of(cell, run, own):
        return told | {"status": "foreign"}
    told |= {"status": run["status"]} | {name: run[name] for name in OF_RUN}
    if run["status"] != "finished":
        return told
    further = folder / "evaluations" / f"{protocol.file_name(tested)}.json"
    test = run if protocol == own and run["scores"] is not None else read_test(further)
    if test is None and protocol == own:
        return told | {"status": "unreadable scores"}
    if test is None:
        return told | {"status": "unreadable" if further.exists() else "untested"}
    if not is_of(cell, test, protocol):
        return told | {"status": "foreign"}
    if test["scores"] is None:
        return told | {"status": "unreadable scores"}
    if test is not run:
        told["tested_by"] = {name: test[name] for name in MADE_BY}
    return told | {name: test[name] for name in ("mean", "ci95", "scores")}


def is_of(cell: Cell, result: Mapping[str, Any], protocol: Protocol) -> bool:
    """Whether a result is that of the cell in whose folder it lies."""
    there = Protocol.of(result)
    if result["status"] != "finished":
        there = replace(there, tasks=protocol.tasks, status=protocol.status)
    own = (cell.cfg.method.name, cell.cfg.seed, cell.metric)
    return (result["method"], result["seed"], result["metric"]) == own and there == protocol
