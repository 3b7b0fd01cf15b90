"""Composes configurations: Hydra on `conf/`, and the resolvers that `conf/` uses.

A random search needs no database: a trial's setting is a function of (search, its seed, trial, setting). Its
YAML says `lr: ${draw:lr,log,1e-5,4e-2}`, and is swept over `trial`: the same in any order, on any machines.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf

from fewshot.episodes import random_bits, uniform

# fewshot/conf in an installed package, conf/ in a checkout
CONF = next(path / "conf" for path in Path(__file__).parents[1:3] if (path / "conf").is_dir())
FOLDERS = {"train": str(CONF), "evaluate": str(CONF / "evaluate")}


class OwnFirst(SearchPathPlugin):
    """Searches the folder of a user's own configs before ours."""

    def manipulate_search_path(self, search_path: Any) -> None:
        if own := os.environ.get("FEWSHOT_CONF"):
            search_path.prepend("own", f"file://{Path(own).absolute()}", anchor="main")


Plugins.instance().register(OwnFirst)


def choices_of(group: str) -> list[str]:
    """What `group=` may be."""
    folders = [CONF, Path(os.environ.get("FEWSHOT_CONF") or CONF)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def composed(overrides: list[str], program: str = "train", with_hydra: bool = False) -> DictConfig:
    """The configuration that a program with these overrides would get, with or without Hydra's own part."""
    return compose_once(tuple(overrides), program, with_hydra).copy()


@lru_cache(256)  # composing takes a fifth of a second
def compose_once(overrides: tuple[str, ...], program: str, with_hydra: bool) -> DictConfig:
    GlobalHydra.instance().clear()  # of the job that this is called in
    with hydra.initialize_config_dir(FOLDERS[program], version_base="1.3"):
        return hydra.compose(program, list(overrides), return_hydra_config=with_hydra)


def swept(params: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides by which a multirun sets each setting, by its key: one, or one for each of its values.

    `params` are those of Hydra's sweeper; `overrides`, the command line's, replace them.
    """
    given, found = [f"{key}={values}" for key, values in params.items()], dict[str, list[str]]()
    for override in OverridesParser.create().parse_overrides([*given, *overrides]):
        key, choices = override.get_key_element(), [str(override.input_line)]
        if override.is_sweep_override():
            choices = [f"{key}={value}" for value in override.sweep_string_iterator()]
        found[override.key_or_group] = choices
    return found


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as dictionaries and values."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def flatten(settings: Any) -> dict[str, Any]:
    """`group.name` → value of settings in groups."""
    return pd.json_normalize(settings, max_level=1).to_dict("records")[0]


def unset(cfg: DictConfig, resolve: bool = False) -> list[str]:
    """The settings that are `???` in conf/; with `resolve` also those for which `by` has no entry."""
    settings = flatten(OmegaConf.to_container(cfg, resolve=resolve))
    return [name for name, value in settings.items() if value == "???"]


def by(key: str, table: Mapping[Any, Any], *, _root_: DictConfig) -> Any:
    """The entry of `table` for the value of setting `key`, or `other`; "???" where there is none."""
    return resolvable(table.get(OmegaConf.select(_root_, key), table.get("other", "???")))


def resolvable(value: Any) -> Any:
    """`OmegaConf.resolve`, as for `--cfg job --resolve`, takes no plain list from a resolver."""
    return ListConfig(value) if isinstance(value, list) else value


def has_tasks(path: str) -> bool:
    """Whether a file of arrays has regression tasks; False where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return "task" in file
    except Exception:  # `read_arrays` says what is wrong
        return False


def is_regression(cfg: DictConfig) -> bool:
    if OmegaConf.is_missing(cfg.data, "path"):
        return False
    return bool(cfg.data.get("regression", cfg.data.name == "sine"))


def updates(tasks: int, meta_batch_size: int) -> int:
    """The number of updates in which about so many tasks are trained on."""
    return round(tasks / meta_batch_size)


def per_task(value: float, meta_batch_size: int) -> float:
    """The share of one task in a meta-batch, say of a learning rate."""
    return value / meta_batch_size


def quarter(steps: int) -> int:
    return max(steps // 4, 1)


def draw(name: str, kind: str, *among: Any, _root_: DictConfig) -> Any:
    """What trial `trial` of search `study` has for the setting `name`.

    Its kind is "choice" of a list; "int", a whole number from a to b, both included; "log", a real number
    from a to b, uniform in its logarithm, or "log_int", the nearest whole number of one.
    """
    digest = hashlib.sha256(f"{_root_.study}/{_root_.search_seed}/{name}".encode()).digest()
    key = np.frombuffer(digest[:8], dtype="<u8")
    where = float(uniform(random_bits(key, np.uint64(_root_.trial)), 0, 1)[0])
    if kind == "choice":
        [options] = among
        return resolvable(options[int(where * len(options))])
    low, high = among
    if kind == "int":
        return int(low) + int(where * (int(high) - int(low) + 1))
    value = math.exp(math.log(low) + where * (math.log(high) - math.log(low)))
    return value if kind == "log" else round(value)


def stacked(units: int, layers: int, *last: int) -> Any:
    """A stack of equal layers, with the units of further ones."""
    return resolvable([units] * layers + list(last))


for resolver in (by, has_tasks, updates, per_task, quarter, draw, stacked):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
