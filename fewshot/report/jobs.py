"""The jobs of a study: the runs that an experiment or a search defines."""

import re
import shlex
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from rich.progress import track

from fewshot.config.compose import choices_of, composed, expand_paths, quote_shots
from fewshot.config.eval_config import further_tests
from fewshot.config.run_id import config_diff, is_reduced, run_folder, table_name
from fewshot.errors import UserError

COLUMN = ("data", "shots", "seed")  # swept, but no part of a row's name


class Job(NamedTuple):
    name: str  # of its row in a table
    cfg: DictConfig
    folder: Path
    command: str
    reduced: bool  # whether its budget is smaller than the paper's
    tests: list[dict[str, Any]]  # the protocol of each of its tests, as a result has it; its own test first

    @property
    def metric(self) -> str:
        return "mse" if self.cfg.data.name == "sine" else "accuracy"


def studies() -> list[str]:
    return [*choices_of("experiment"), *choices_of("search")]


def choice(study: str) -> str:
    """The override of train.py that chooses a study.

    Raises:
        UserError: there is no study of this name.
    """
    if study not in studies():
        raise UserError(f"unknown study {study!r}: choose one of {', '.join(studies())}")
    return f"{'search' if study in choices_of('search') else 'experiment'}={study}"


def parse(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


def texts(override: Override) -> list[str]:
    """The values of an override, as the command line takes them."""
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def values(override: Override) -> list[str]:
    return [text.strip("'") for text in texts(override)]


def params(study: str, overrides: Sequence[str]) -> dict[str, str]:
    """What a study sweeps over, by its YAML."""
    single = [str(o.input_line) for o in parse(overrides) if not o.is_sweep_override()]
    cfg = composed([choice(study), *single], with_hydra=True)
    return {str(key): str(values) for key, values in (cfg.hydra.sweeper.params or {}).items()}


def jobs(study: str, overrides: Sequence[str] = ()) -> list[Job]:
    """The jobs of a study, narrowed or changed by overrides as a multirun of train.py would be.

    Raises:
        UserError: there is no such study, or it is a single run.
    """
    overrides = quote_shots(list(overrides))
    if not (swept := params(study, overrides)):
        raise UserError(f"{study} is a single run: see the result in its folder")
    given = parse([*(f"{key}={values}" for key, values in swept.items()), *overrides])
    last = {override.get_key_element(): override for override in given}
    keys = [key for key, o in last.items() if o.is_sweep_override() or key in swept]
    row_keys = [key for key in keys if key not in (*COLUMN, "method")]
    seeds = last.pop("seed", None)
    combinations = list(product(*([f"{key}={value}" for value in texts(o)] for key, o in last.items())))
    found = dict[Path, Job]()
    for combination in track(combinations, "settings", transient=True, disable=not sys.stderr.isatty()):
        settings = [o.replace("'", "") if o.startswith("shots=") else o for o in combination]
        cfg = expand_paths(composed([choice(study), *settings]))
        own = [setting.removeprefix("method.") for setting in settings if setting.split("=")[0] in row_keys]
        name, reduced, tests = " ".join([cfg.method.name, *own]), is_reduced(cfg), planned_tests(cfg)
        for seed in values(seeds) if seeds else [str(cfg.seed)]:
            if not seed.isdecimal():
                raise UserError(f"seed={seed}: give an integer from 0")
            cfg, own_seed = cfg.copy(), [f"seed={seed}"] * bool(seeds)
            cfg.seed = int(seed)
            folder = run_folder(cfg)
            command = shlex.join(["python", "train.py", choice(study), *settings, *own_seed])
            found[folder] = Job(name, cfg, folder, command, reduced, tests)
    return list(found.values())


def planned_tests(cfg: DictConfig) -> list[dict[str, Any]]:
    common = {"status": "finished", "method": cfg.method.name, "variant": cfg.variant}
    common |= {"trained_on": cfg.data.name, "ways": cfg.data.get("ways", 1), "shots": cfg.shots}
    common |= {"val_shots": cfg.shots, "tasks": cfg.trainer.num_test_tasks, "config_diff": config_diff(cfg)}
    own = common | {"data": cfg.data.name, "test_queries": cfg.data.test_queries}
    further = [
        common | {"data": table_name(tested), "test_queries": tested.data.test_queries}
        for tested in further_tests(cfg)
    ]
    return [own, *further]


def narrowing(overrides: Sequence[str]) -> list[str]:
    """The overrides that say which runs a report is about, in one order."""
    own = [override for override in overrides if not override.startswith(("logger", "paths."))]
    return sorted(own, key=lambda override: override.lstrip("+").split("=")[0])


def title(study: str, overrides: Sequence[str], reduced: bool) -> str:
    return " ".join([study, *narrowing(overrides)]) + ", reduced" * reduced


def wandb_name(title: str) -> str:
    """A report's title as a name that W&B's filters and workspaces take."""
    return re.sub(r"[^\w ,.-]", " ", title)
