"""Composes configurations: Hydra on `conf/`, with shots of any number as choices, and what its files compute with."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from fewshot.errors import UserError

DEFAULT_SHOTS = 1
CONF = Path(__file__).parent.parent.parent / "conf"
FOLDERS = {"train": str(CONF), "evaluate": str(CONF / "evaluate")}
PATHS = ("paths.raw", "paths.prepared", "paths.outputs", "data.path", "run", "path")


def by(key: str) -> Callable[..., Any]:
    """A resolver that takes from a table the entry of a setting, or `other`; "???" where there is none."""

    def chosen(table: Mapping[Any, Any], *, _root_: DictConfig) -> Any:
        return table.get(OmegaConf.select(_root_, key), table.get("other", "???"))

    return chosen


for name, key in (("by_form", "form"), ("by_shots", "shots"), ("by_backbone", "backbone.name")):
    OmegaConf.register_new_resolver(name, by(key), replace=True)
OmegaConf.register_new_resolver("per_meta_batch", lambda tasks, batch: round(int(tasks) / int(batch)), replace=True)
OmegaConf.register_new_resolver("equal", lambda one, other: one == other, replace=True)
OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)


def register_shots(shots: int) -> None:
    """Makes `shots` a choice of the config group `shots`."""
    ConfigStore.instance().store(group="shots", name=str(shots), node={"shots": shots}, package="_global_")


def quote_shots(arguments: list[str]) -> list[str]:
    """Hydra refuses an integer as a group's choice: quotes those of `shots=` and registers them as choices."""
    register_shots(DEFAULT_SHOTS)
    quoted = []
    for argument in arguments:
        if argument.startswith("shots="):
            values = argument.removeprefix("shots=").strip("\"'").split(",")
            for value in values:
                if not re.fullmatch(r"[1-9]\d*", value.strip("\"' ")):
                    raise UserError(f"{argument}: give positive whole numbers, as shots=5 or, with -m, shots=1,5")
                register_shots(int(value.strip("\"' ")))
            argument = "shots=" + ",".join("'" + value.strip("\"' ") + "'" for value in values)
        quoted.append(argument)
    return quoted


def composed(overrides: list[str], program: str = "train") -> DictConfig:
    """The configuration that `python train.py` with these overrides would get, or that of `evaluate`."""
    running = GlobalHydra.instance()
    outer, running.hydra = running.hydra, None  # a second Hydra, on the train configs, inside the one that runs
    try:
        with hydra.initialize_config_dir(FOLDERS[program], version_base="1.3"):
            return hydra.compose(program, quote_shots(overrides))
    finally:
        running.hydra = outer


def at_home(cfg: DictConfig) -> DictConfig:
    """The configuration with `~` in its paths replaced by the home folder, once for all who read them."""
    for key in PATHS:
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if isinstance(value, str):
            OmegaConf.update(cfg, key, os.path.expanduser(value))
    return cfg


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of nested dictionaries."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {k: v for name, sub in node.items() for k, v in flatten(sub, f"{prefix}.{name}" if prefix else name).items()}
