"""The jobs of a study, which an experiment or a search defines, and data frames of their tests."""

import re
import shlex
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import choices_of, composed, is_regression, swept
from fewshot.config.run_id import config_diff, further_tests, is_reduced, protocol, run_folder, table_name
from fewshot.errors import UserError, exit_code
from fewshot.results.paper import NUMBERS, comparison_key, paper_numbers
from fewshot.results.record import as_overrides, read_result

NOT_IN_NAME = ("data", "shots", "seed", "method")  # of a row: its column, its repetitions, its first word
OF_RUN = ["parameters", "train_tasks", "train_seconds", "tasks_per_second", "peak_memory_bytes"]
OF_RUN += ["best_validation", "warnings", "status"]
OF_TEST = ["mean", "ci95", "scores", "device", "threads", "versions", "git_commit"]


class Job(NamedTuple):
    name: str  # of its row in a table
    cfg: DictConfig
    folder: Path
    command: str
    tests: list[dict[str, Any]]  # the protocol of each of its tests, as a result has it; its own test first


def sweep(study: str, overrides: Sequence[str] = ()) -> dict[str, list[str]]:
    """The overrides of a study and of the command line by key, as in `swept`; the study comes first."""
    group = "search" if study in choices_of("search") else "experiment"
    params = composed([f"{group}={study}"], with_hydra=True).hydra.sweeper.params
    if not params:
        raise UserError(f"{study} is a single run: see the result in its folder")
    return swept({group: study, **params}, overrides)


def jobs(study: str, overrides: Sequence[str] = ()) -> list[Job]:
    """The jobs of a study, narrowed or changed by overrides as a multirun of train.py would be.

    With `queries=15` the tests are those that evaluate.py made with so many queries a class.
    """
    values_of, found = sweep(study, overrides), dict[Path, Job]()
    seeds, asked = values_of.pop("seed", []), values_of.pop("queries", ["queries=null"])
    queries = OmegaConf.from_dotlist(asked).queries
    if len(asked) > 1 or not isinstance(queries, int | None):
        raise UserError(f"{', '.join(asked)} is not one integer")
    named = [key for key, values in values_of.items() if len(values) > 1 and key not in NOT_IN_NAME]
    for settings in product(*values_of.values()):
        base = composed(list(settings))
        own = [value for key, value in zip(values_of, settings, strict=True) if key in named]
        name = " ".join([base.method.name, *(value.lstrip("+").removeprefix("method.") for value in own)])
        tests = planned_tests(base, queries)
        for seed in seeds or [f"seed={base.seed}"]:
            cfg = base.copy()
            cfg.merge_with_dotlist([seed])
            folder, command = run_folder(cfg), shlex.join(["python", "train.py", *settings, seed])
            found[folder] = Job(name, cfg, folder, command, tests)
    return list(found.values())


def planned_tests(cfg: DictConfig, queries: int | None = None) -> list[dict[str, Any]]:
    """What is known of a run's own test and of those on further data before they are made."""
    common = {"status": "finished", "method": cfg.method.name, "variant": cfg.variant, "study": cfg.study}
    common |= {"trained_on": cfg.data.name, "val_shots": cfg.shots, "config_diff": config_diff(cfg)}
    common |= {"metric": "mse" if is_regression(cfg) else "accuracy", "reduced": is_reduced(cfg)}
    tests = [(cfg.data.name, cfg), *((table_name(test), test) for test in further_tests(cfg))]
    changes = {"test_queries": queries} if queries else {}
    return [common | protocol(test) | {"data": name} | changes for name, test in tests]


def run_program(program: Callable[[str, Sequence[str]], None], description: str | None) -> None:
    """Runs a program on the study and the overrides of the command line, and exits."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    sys.exit(exit_code(program, given.study, given.overrides))


def title(study: str, overrides: Sequence[str]) -> str:
    """A study with the overrides that say which runs a report is about, in one order."""
    own = [override for override in overrides if not override.startswith(("logger", "paths."))]
    return " ".join([study, *sorted(own, key=lambda override: override.lstrip("+"))])


def name_of_report(title: str) -> str:
    """A report's title as the name of its folder and in W&B, whose filters and workspaces take it."""
    name = re.sub(r"[^\w,.-]+", "-", title)
    return name if len(name) <= 150 else f"{name[:139]}-{sha256(title.encode()).hexdigest()[:10]}"


def stored_tests(folder: Path) -> list[dict[str, Any]]:
    """A run's result and those that evaluate.py added for the same state, with the score of every task."""
    found = []
    for path in [folder / "result.json", *sorted(folder.glob("evaluations/*/result.json"))]:
        if (test := read_result(path.parent)) is None:
            break  # the run has no result
        csv = path.with_name("test_scores.csv")
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
    results = sorted(root.rglob("result.json"))
    runs = [path.parent for path in results if path.parent.parent.name != "evaluations"]
    tests = [test for folder in runs for test in stored_tests(folder)]
    for test in tests:
        test |= {"paper": paper_numbers(test).get("value"), "config_diff": as_overrides(test["config_diff"])}
    kind = ["folder", "data", "ways", "shots", "test_queries", "tasks", "bn"]  # a test made again is one row
    return pd.DataFrame(tests).drop_duplicates(kind, ignore_index=True) if tests else pd.DataFrame()


def runs_of(jobs: Iterable[Job]) -> pd.DataFrame:
    """One row per job and test, run or not: protocol, status, scores, and the paper's numbers.

    `status` is how the run ended, or "missing", "unfinished" or "untested": finished without this test. Tests
    share a `column` only if they are on the same tasks.
    """
    rows = []
    for job in jobs:
        stored = stored_tests(job.folder)
        begun = (job.folder / "last.ckpt").exists()
        run = stored[0] if stored else {"status": "unfinished" if begun else "missing"}
        for test in job.tests:
            where = " → ".join(dict.fromkeys([test["trained_on"], test["data"]]))
            row = {"name": job.name, "column": f"{where} {test['shots']}-shot", "seed": job.cfg.seed}
            row |= {name: job.cfg.data.get(name) for name in ("sign", "path")}
            row |= {f"paper_{name}".removesuffix("_value"): paper_numbers(test).get(name) for name in NUMBERS}
            made = next((found for found in stored if comparison_key(found) == comparison_key(test)), {})
            row |= {name: run.get(name) for name in OF_RUN} | {name: made.get(name) for name in OF_TEST}
            if run["status"] == "finished" and not made:
                row["status"] = "untested"
            rows.append(test | row | {"folder": str(job.folder)})
    runs = pd.DataFrame(rows).fillna(np.nan).infer_objects()  # numbers, where all are missing too
    places = runs["column"]
    for name in ("ways", "test_queries", "tasks", "sign", "path"):
        differs = runs.groupby(places)[name].transform("nunique") > 1
        runs["column"] += (f", {name}=" + runs[name].astype(str)).where(differs, "")
    return runs
