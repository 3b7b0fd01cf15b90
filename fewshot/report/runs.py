"""The cells of a study: the runs that it asks for."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from fewshot.config.checks import check
from fewshot.config.compose import FOLDERS, at_home, check_words, composed, quote_shots
from fewshot.config.run_id import run_folder
from fewshot.config.settings import choices_of
from fewshot.errors import UserError
from fewshot.options import nearest

COLUMN = ("data", "shots", "seed")  # what is swept and is no part of a row's name


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


def title(study: str, told: Sequence[str], reduced: bool) -> str:
    """What a report is called, on paper and in W&B."""
    return " ".join([study, *what_differs(told)]) + ", reduced" * reduced


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
    check_words(told := quote_shots(list(told)))
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
        name = " ".join(
            [cfg.method.name, *(o.removeprefix("method.") for o in own if not o.startswith("method="))]
        )
        command = shlex.join(["python", "train.py", choice(study), *map(unquoted, combination)])
        found.append(Cell(name, cfg, run_folder(cfg), command))
    return list({cell.folder: cell for cell in found}.values())  # a value given twice is one run


def unquoted(override: str) -> str:
    """Without the quotes that `quote_shots` gave it, as `composed` and a shell take it."""
    return override.replace("'", "") if override.startswith("shots=") else override
