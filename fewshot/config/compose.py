"""Composes configurations: Hydra on `conf/`."""

import os
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from fewshot.config import resolvers  # noqa: F401  which `conf/` uses

PACKAGE = Path(__file__).parent.parent
# in an installed package; in a checkout
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
OWN = "FEWSHOT_CONF"  # a folder of a user's own configs, searched before ours
FOLDERS = {"train": str(CONF), "evaluate": str(CONF / "evaluate")}


class OwnFirst(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if own := os.environ.get(OWN):
            search_path.prepend("own", f"file://{Path(own).absolute()}", anchor="main")


Plugins.instance().register(OwnFirst)


def choices_of(group: str) -> list[str]:
    """What `group=` may be."""
    folders = [CONF, Path(os.environ.get(OWN) or CONF)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def composed(overrides: list[str], program: str = "train", with_hydra: bool = False) -> DictConfig:
    """The configuration that a program with these overrides would get, with or without Hydra's own part."""
    GlobalHydra.instance().clear()  # of the job that this is called in
    with hydra.initialize_config_dir(FOLDERS[program], version_base="1.3"):
        return hydra.compose(program, overrides, return_hydra_config=with_hydra)


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of nested dictionaries."""
    if not isinstance(node, dict):
        return {prefix: node}
    flat = [flatten(inner, f"{prefix}.{name}" if prefix else name) for name, inner in node.items()]
    return {name: value for part in flat for name, value in part.items()}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as dictionaries and values."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def unset(values: Any) -> list[str]:
    """The dotted names of the values that are still to be given."""
    return [name for name, value in flatten(values).items() if value == "???"]
