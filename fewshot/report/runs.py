"""The cells of a study, and their runs as a data frame: one row a test."""

import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from fewshot.config.checks import check
from fewshot.config.compose import FOLDERS, at_home, composed, quote_shots, refuse_bare
from fewshot.config.identity import changed, is_shrunk, run_folder
from fewshot.config.settings import choices_of
from fewshot.config.tested import further_tests
from fewshot.errors import UserError
from fewshot.options import nearest
from fewshot.report.frame import read_test
from fewshot.results.paper import FIGURES, INTERVALS, OVER_SEEDS, PARAMETERS, RUNNING_TIMES
from fewshot.results.protocol import Protocol, as_settings, of_queries
from fewshot.runs.kept import table_of

COLUMN = ("data", "shots", "seed")  # what is swept and is no part of a row's name
MADE_BY = ("device", "threads", "versions", "git_commit")
OF_RUN = (  # what a report takes from a result beside its test
    *("parameters", "train_tasks", "train_seconds", "tasks_per_second", "peak_memory_bytes"),
    *("best_validation", "warnings", *MADE_BY),
)


@dataclass(frozen=True)
class Cell:
    """A run that a study asks for: its name among the others, its settings, its folder, and its command."""

    name: str
    cfg: DictConfig
    folder: Path
    command: str

    @property
    def kind(self) -> tuple[str, str, int]:
        """What cells share that differ in their seeds alone: to find out more of a kind takes compositions."""
        return self.name, self.cfg.data.name, self.cfg.shots

    @property
    def metric(self) -> str:
        return "mse" if self.cfg.data.name == "sine" else "accuracy"


def studies() -> list[str]:
    """The experiments and searches that there are."""
    return [name for group in ("experiment", "search") for name in choices_of(group)]


def params(study: str, told: Sequence[str]) -> dict[str, Any]:
    """What a study sweeps over, by its YAML."""
    whole = composed([choice(study), *single(told)], with_hydra=True)
    return OmegaConf.to_container(whole.hydra.sweeper.params or OmegaConf.create({}))  # type: ignore[return-value]


def choice(study: str) -> str:
    """The study as train.py takes it; UserError where there is none of this name."""
    if study not in (known := studies()):
        raise UserError(f"unknown study {study!r}: choose {nearest(study, known)}")
    return f"{'search' if study in choices_of('search') else 'experiment'}={study}"


def single(told: Sequence[str]) -> list[str]:
    """The settings that are not swept."""
    return [str(o.input_line) for o in parsed(told) if not o.is_sweep_override()]


def what_differs(told: Sequence[str]) -> list[str]:
    """The settings that say which runs a report is of, in whatever order they were told."""
    differing = [setting for setting in told if not setting.startswith(("logger", "paths."))]
    return sorted(differing, key=lambda setting: setting.lstrip("+").split("=")[0])


def title(study: str, told: Sequence[str], shrunk: bool) -> str:
    """What a report is called, on paper and in W&B."""
    return " ".join([study, *what_differs(told)]) + ", shrunk" * shrunk


def in_wandb(title: str) -> str:
    """A report's title as a name that W&B's filters and workspaces take."""
    return re.sub(r"[^\w ,.-]", " ", title)


def parsed(told: Sequence[str]) -> list[Override]:
    with hydra.initialize_config_dir(FOLDERS["train"], version_base="1.3"):  # glob(*) asks what there is
        return OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(told))


def cells(study: str, told: Sequence[str] = ()) -> list[Cell]:
    """The runs of a study, narrowed or changed as train.py would by further settings.

    Raises:
        UserError: there is no such study, it is a single run, or its settings make no sense.
    """
    refuse_bare(told := quote_shots(list(told)))
    if other := [o for o in told if o.lstrip("+").startswith(("experiment=", "search="))]:
        raise UserError(f"{other[0]}: a report is of one study, {study}")
    if not (swept := params(study, told)):
        raise UserError(f"{study} is a single run: its folder holds its result")
    told = [narrow if (narrow := o.removeprefix("++")).split("=")[0] in swept else o for o in told]
    overrides = parsed([*(f"{k}={v}" for k, v in swept.items()), *told])
    [combinations] = BasicSweeper.split_arguments(overrides, None)
    if not combinations:
        raise UserError(f"{study} {' '.join(told)}: no values, no cells")
    names = [o.get_key_element() for o in overrides if o.is_sweep_override() or o.get_key_element() in swept]
    found, kinds = [], dict[tuple[str, ...], DictConfig]()
    for combination in track(combinations, "settings", transient=True, disable=not sys.stderr.isatty()):
        kind = tuple(o for o in combination if not o.startswith("seed="))
        if kind not in kinds:
            kinds[kind] = at_home(composed([choice(study), *map(unquoted, kind)]))
            check(kinds[kind])
        cfg = kinds[kind].copy()
        for seed in (o.removeprefix("seed=") for o in combination if o.startswith("seed=")):
            if not seed.isdecimal():
                raise UserError(f"seed={seed}: give a whole number from 0")
            cfg.seed = int(seed)
        own = [o for o in kind if o.split("=")[0] in names and o.split("=")[0] not in COLUMN]
        name = " ".join([cfg.method.name, *(o.removeprefix("method.") for o in own if not o.startswith("method="))])
        command = shlex.join(["python", "train.py", choice(study), *map(unquoted, combination)])
        found.append(Cell(name, cfg, run_folder(cfg), command))
    return list({cell.folder: cell for cell in found}.values())  # a value given twice is one run


def unquoted(override: str) -> str:
    """Without the quotes that `quote_shots` gave it, as `composed` and a shell take it."""
    return override.replace("'", "") if override.startswith("shots=") else override


def of_study(found: Iterable[Cell], queries: int | None = None) -> pd.DataFrame:
    """One row a test of each cell, run or not: how it ended, its score, and the paper's.

    With `queries` the tests are not the study's, but those that evaluate.py made with as many queries a class.
    """
    plans = dict[tuple[str, str, int], tuple[bool, dict[str, Protocol]]]()
    rows, places = [], []
    for cell in found:
        if cell.kind not in plans:
            plans[cell.kind] = is_shrunk(cell.cfg), planned(cell.cfg)
        shrunk, protocols = plans[cell.kind]
        own = protocols[cell.cfg.data.name]
        for tested, protocol in protocols.items():
            protocol = replace(protocol, queries=queries or protocol.queries)
            row = {"study": cell.cfg.study, "name": cell.name, "trained_on": cell.cfg.data.name, "data": tested}
            row |= {"method": cell.cfg.method.name, "shots": cell.cfg.shots, "seed": cell.cfg.seed, "shrunk": shrunk}
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
    data, settings = cfg.data, as_settings(changed(cfg))
    tests = {data.name: data.test_queries} | {table_of(t): t.data.test_queries for t in further_tests(cfg)}
    ways, tasks = data.get("ways", 1), cfg.trainer.test_tasks
    common = (ways, cfg.shots, cfg.shots)
    return {
        name: Protocol(data.name, name, *common, queries, tasks, cfg.form, settings, "finished")
        for name, queries in tests.items()
    }


def outcome(cell: Cell, tested: str, protocol: Protocol, own: Protocol) -> dict[str, Any]:
    """What a run's folder says of a test by `protocol`, where the run's own is by `own`.

    Where it says nothing, `status` is how the run ended, or "missing", "unfinished", "untested", "unreadable", which
    may be its scores alone, or "foreign": of other settings, or a test that evaluate.py made of an earlier state.
    """
    folder = cell.folder
    told: dict[str, Any] = {"folder": str(folder), "status": "missing"}
    told |= dict.fromkeys(("mean", "ci95", "scores", "tested_by"))  # the last of further tests than the run's own
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
