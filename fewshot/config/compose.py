"""Composes configurations: Hydra on `conf/`, any number of shots, and the resolvers of its files."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from fewshot.config import random_search  # noqa: F401  the resolvers of searches

PACKAGE = Path(__file__).parent.parent
# in an installed package; in a checkout
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
OWN = "FEWSHOT_CONF"  # a folder of a user's own configs, searched before ours
PATHS = ("paths.raw", "paths.prepared", "paths.outputs", "data.path", "backbone.weights", "run", "path")
FOLDERS = {"train": str(CONF), "evaluate": str(CONF / "evaluate")}


def by(key: str, table: Mapping[Any, Any], *, _root_: DictConfig) -> Any:
    """The entry of `table` for the value of setting `key`, or `other`; "???" where there is none."""
    found = table.get(OmegaConf.select(_root_, key), table.get("other", "???"))
    return OmegaConf.create(found) if isinstance(found, list) else found


def per_meta_batch(tasks: Any, size: Any) -> Any:
    """The number of meta-batches that hold as many tasks."""
    return "???" if "???" in (tasks, size) else round(int(tasks) / int(size))


def quarter(steps: Any) -> Any:
    return "???" if steps == "???" else max(int(steps) // 4, 1)


OmegaConf.register_new_resolver("by", by, replace=True)
OmegaConf.register_new_resolver("per_meta_batch", per_meta_batch, replace=True)
OmegaConf.register_new_resolver("quarter", quarter, replace=True)
OmegaConf.register_new_resolver("over", lambda number, by: number / by, replace=True)
OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)


def conf_folders() -> list[Path]:
    """Where configs are: a user's own folder, if there is one, and the package's."""
    own = os.environ.get(OWN)
    return [*([Path(own).expanduser().absolute()] if own else []), CONF]


class OwnFirst(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if os.environ.get(OWN):
            search_path.prepend("own", f"file://{conf_folders()[0]}", anchor="main")


Plugins.instance().register(OwnFirst)


def choices_of(group: str) -> list[str]:
    """What `group=` may be."""
    return sorted({path.stem for folder in conf_folders() for path in (folder / group).glob("*.yaml")})


def register_shots(shots: int) -> None:
    """Makes `shots` a choice of the config group `shots`."""
    ConfigStore.instance().store(group="shots", name=str(shots), node={"shots": shots}, package="_global_")


for few in range(1, 51):  # those that a YAML may choose; a command line's are registered as they come
    register_shots(few)


def quote_shots(overrides: list[str]) -> list[str]:
    """`shots=1,5` as `shots='1','5'`: Hydra takes no integer as the choice of a group."""
    for number in (n for o in overrides if o.startswith("shots=") for n in re.findall(r"\d+", o)):
        register_shots(int(number))
    return [re.sub(r"(?<![\d'])(\d+)(?!')", r"'\1'", o) if o.startswith("shots=") else o for o in overrides]


def composed(overrides: list[str], program: str = "train", with_hydra: bool = False) -> DictConfig:
    """The configuration that `python train.py`, or `evaluate.py`, with these overrides would get.

    With `with_hydra` also Hydra's own part, which says what a study sweeps.
    """
    running = GlobalHydra.instance()
    outer, running.hydra = running.hydra, None  # this may be called in a job of Hydra's
    try:
        with hydra.initialize_config_dir(FOLDERS[program], version_base="1.3"):
            return hydra.compose(program, quote_shots(overrides), return_hydra_config=with_hydra)
    finally:
        running.hydra = outer


def expand_paths(cfg: DictConfig) -> DictConfig:
    """The configuration with `~` in its paths replaced by the home folder."""
    for name in PATHS:
        if isinstance(value := OmegaConf.select(cfg, name, throw_on_missing=False), str):
            OmegaConf.update(cfg, name, os.path.expanduser(value))
    return cfg


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of nested dictionaries."""
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for name, inner in node.items():
        flat |= flatten(inner, f"{prefix}.{name}" if prefix else name)
    return flat


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as dictionaries and values."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
