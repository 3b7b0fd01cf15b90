"""Composes configurations: Hydra on `conf/`, with shots of any number as choices, and what its files compute with."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fewshot.config import random_search  # noqa: F401  the resolvers of searches
from fewshot.errors import UserError

PACKAGE = Path(__file__).parent.parent
CONF = next(
    path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir()
)  # installed; a checkout
OWN = "FEWSHOT_CONF"  # a folder of a user's own configs, searched before ours
FOLDERS = {"train": str(CONF), "evaluate": str(CONF / "evaluate")}
WHOLE = "give a list as a whole, as data.test=[cub]"
PATHS = ("paths.raw", "paths.prepared", "paths.outputs", "data.path", "backbone.weights", "run", "path")


def by(key: str) -> Callable[..., Any]:
    """A resolver that takes from a table the entry of a setting, or `other`; "???" where there is none."""

    def chosen(table: Mapping[Any, Any], *, _root_: DictConfig) -> Any:
        found = table.get(OmegaConf.select(_root_, key), table.get("other", "???"))
        return (
            OmegaConf.create(found) if isinstance(found, list) else found
        )  # a node, as what is shown resolved asks

    return chosen


TABLES = {
    "by_variant": "variant",
    "by_shots": "shots",
    "by_backbone": "backbone.name",
    "by_data": "data.name",
}
for name, key in TABLES.items():
    OmegaConf.register_new_resolver(name, by(key), replace=True)
OmegaConf.register_new_resolver(
    "per_meta_batch",
    lambda tasks, batch: "???" if batch == "???" else round(int(tasks) / int(batch)),
    replace=True,
)
OmegaConf.register_new_resolver(
    "quarter", lambda updates: "???" if updates == "???" else max(int(updates) // 4, 1), replace=True
)
OmegaConf.register_new_resolver("over", lambda number, by: number / by, replace=True)
OmegaConf.register_new_resolver("equal", lambda one, other: one == other, replace=True)
OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)


def conf_folders() -> list[Path]:
    """Where configs are: a user's own folder, if there is one, and the package's."""
    return [*([Path(os.environ[OWN]).expanduser().absolute()] if os.environ.get(OWN) else []), CONF]


class OwnFirst(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if os.environ.get(OWN):
            search_path.prepend("own", f"file://{conf_folders()[0]}", anchor="main")


Plugins.instance().register(OwnFirst)


def config_file(group: str, name: str) -> Path:
    """The file of a choice; where it would be if it is not there."""
    places = [folder / group / f"{name}.yaml" for folder in conf_folders()]
    return next((path for path in places if path.is_file()), places[-1])


def register_shots(shots: int) -> None:
    """Makes `shots` a choice of the config group `shots`."""
    ConfigStore.instance().store(group="shots", name=str(shots), node={"shots": shots}, package="_global_")


for few in range(1, 51):  # that a YAML may choose; those of a command line are registered as they come
    register_shots(few)


def quote_shots(arguments: list[str]) -> list[str]:
    """Hydra refuses an integer as a group's choice: quotes those of `shots=` and registers them as choices."""
    arguments = [
        a.removeprefix("+") if a.startswith("+experiment=") else a for a in arguments
    ]  # there is one, null
    arguments = [
        f"++{a}" if a.startswith("trainer.lightning.") else a for a in arguments
    ]  # there are none yet
    return [quoted(a) if a.startswith("shots=") else a for a in arguments]


def check_words(arguments: list[str]) -> None:
    """UserError for what is no setting, or is several of a group's, of which Hydra would merge one into the other."""
    for argument in arguments:
        if "=" not in argument and not argument.startswith("~"):
            raise UserError(
                f"{argument or 'an empty argument'}: a setting is given as name=value, as method=maml"
            )
        name, _, value = argument.lstrip("+").partition("=")
        if name and value.startswith("[") and any((folder / name).is_dir() for folder in conf_folders()):
            raise UserError(
                f"{argument}: {name} is one name, or several of a grid, as -m {name}={value.strip('[]')}"
            )


def quoted(argument: str) -> str:
    """`shots=1,5`, or a range or choice, as Hydra takes it."""
    try:
        [parsed] = OverridesParser.create().parse_overrides([argument])
        values = [
            str(v) for v in (parsed.sweep_iterator() if parsed.is_sweep_override() else [parsed.value()])
        ]
    except HydraException:
        values = [argument]
    for value in values:
        if not re.fullmatch(r"[1-9]\d{0,99}", value):
            raise UserError(f"{argument}: give positive whole numbers, as shots=5 or, with -m, shots=1,5")
        register_shots(int(value))
    return "shots=" + ",".join(f"'{value}'" for value in values)


def composed(overrides: list[str], program: str = "train", with_hydra: bool = False) -> DictConfig:
    """The configuration that `python train.py` with these overrides would get, or that of `evaluate`.

    With `with_hydra` also Hydra's own part, which says what a study sweeps.
    """
    running = GlobalHydra.instance()
    outer, running.hydra = (
        running.hydra,
        None,
    )  # a second Hydra, on the train configs, inside the one that runs
    try:
        with hydra.initialize_config_dir(FOLDERS[program], version_base="1.3"):
            return hydra.compose(program, quote_shots(overrides), return_hydra_config=with_hydra)
    except ValueError as error:  # a number as a group's choice; OmegaConf's own errors are ValueErrors too
        if isinstance(error, OmegaConfBaseException):
            raise
        mend = WHOLE if "invalid literal" in str(error) else "choose by name, as method=maml"
        raise UserError(f"{' '.join(overrides)}: {error}, {mend}") from error
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
    return {
        k: v
        for name, sub in node.items()
        for k, v in flatten(sub, f"{prefix}.{name}" if prefix else name).items()
    }
