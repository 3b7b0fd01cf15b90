"""The jobs of a study: the runs that an experiment or a search defines."""

import re
import shlex
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from fewshot.config.compose import choices_of, composed
from fewshot.config.eval_config import further_tests
from fewshot.config.run_id import config_diff, is_reduced, run_folder, table_name
from fewshot.errors import UserError

NOT_IN_NAME = ("data", "shots", "seed", "method")  # of a row: its column, its repetitions, its first word


class Job(NamedTuple):
    name: str  # of its row in a table
    cfg: DictConfig
    folder: Path
    command: str
    reduced: bool  # whether its budget is smaller than the paper's
    tests: list[dict[str, Any]]  # the protocol of each of its tests, as a result has it; its own test first


def sweep(study: str, overrides: Sequence[str] = ()) -> dict[str, Override]:
    """What a study sweeps over by its YAML and the command line, and the other overrides, by their keys."""
    parse = OverridesParser.create().parse_overrides
    given = parse(list(overrides))
    single = [str(override.input_line) for override in given if not override.is_sweep_override()]
    params = composed([choice(study), *single], with_hydra=True).hydra.sweeper.params
    if not params:
        raise UserError(f"{study} is a single run: see the result in its folder")
    swept = parse([f"{key}={values}" for key, values in params.items()])
    return {override.get_key_element(): override for override in [*swept, *given]}


def choice(study: str) -> str:
    """The override of train.py that chooses a study."""
    return f"{'search' if study in choices_of('search') else 'experiment'}={study}"


def assignments(override: Override) -> list[str]:
    """`key=value` for every value of an override."""
    key = override.get_key_element()
    if override.is_sweep_override():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [f"{key}={override.get_value_element_as_str()}"]


def jobs(study: str, overrides: Sequence[str] = ()) -> list[Job]:
    """The jobs of a study, narrowed or changed by overrides as a multirun of train.py would be."""
    swept, found = sweep(study, overrides), dict[Path, Job]()
    named = [key for key, o in swept.items() if o.is_sweep_override() and key not in NOT_IN_NAME]
    seeds = assignments(swept.pop("seed")) if "seed" in swept else []
    for settings in product(*map(assignments, swept.values())):
        base = composed([choice(study), *settings])
        own = [setting.removeprefix("method.") for setting in settings if setting.split("=")[0] in named]
        name, reduced, tests = " ".join([base.method.name, *own]), is_reduced(base), planned_tests(base)
        for seed in seeds or [f"seed={base.seed}"]:
            cfg = base.copy()
            cfg.merge_with_dotlist([seed])
            folder = run_folder(cfg)
            command = shlex.join(["python", "train.py", choice(study), *settings, seed])
            found[folder] = Job(name, cfg, folder, command, reduced, tests)
    return list(found.values())


def planned_tests(cfg: DictConfig) -> list[dict[str, Any]]:
    """The protocol of a run's own test and of those on further data."""
    common = {"status": "finished", "method": cfg.method.name, "variant": cfg.variant}
    common |= {"trained_on": cfg.data.name, "ways": cfg.data.get("ways", 1), "shots": cfg.shots}
    common |= {"val_shots": cfg.shots, "tasks": cfg.trainer.num_test_tasks, "config_diff": config_diff(cfg)}
    own = common | {"data": cfg.data.name, "test_queries": cfg.data.test_queries}
    further = further_tests(cfg)
    return [own, *(common | {"data": table_name(t), "test_queries": t.data.test_queries} for t in further)]


def title(study: str, overrides: Sequence[str]) -> str:
    """A study with the overrides that say which runs a report is about, in one order."""
    own = [override for override in overrides if not override.startswith(("logger", "paths."))]
    return " ".join([study, *sorted(own, key=lambda override: override.lstrip("+"))])


def wandb_name(title: str) -> str:
    """A report's title as a name that W&B's filters and workspaces take."""
    return re.sub(r"[^\w ,.-]", " ", title)
