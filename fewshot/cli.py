"""From the command line to a function of one configuration: Hydra's entry, integer shots, errors in one line."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fewshot.checks import nearest
from fewshot.errors import UserError

CONF = str(Path(__file__).parent.parent / "conf")

OmegaConf.register_new_resolver("per_meta_batch", lambda tasks, batch: round(int(tasks) / int(batch)), replace=True)


def register_shots(shots: int) -> None:
    """Makes `shots` a choice of the config group `shots`."""
    ConfigStore.instance().store(group="shots", name=str(shots), node={"shots": shots}, package="_global_")


def quote_shots(arguments: list[str]) -> list[str]:
    """Hydra refuses an integer as a group's choice: quotes those of `shots=` and registers them as choices."""
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


def main(run: Callable[[DictConfig], dict[str, Any]], config: str) -> int:
    """Runs `run` on the configuration that the command line composes, or on each of a multirun; the exit code."""
    outcomes: list[dict[str, Any]] = []

    def task(cfg: DictConfig) -> None:
        outcomes.append(run(cfg))

    quiet()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here, to be told in one line
    try:
        sys.argv[1:] = quote_shots(sys.argv[1:])
        register_shots(1)
        hydra.main(version_base="1.3", config_path=CONF, config_name=config)(task)()
    except UserError as error:
        return say(error)
    except (HydraException, OmegaConfBaseException) as error:
        return say(UserError(explain(error)))
    return 1 if any(outcome["status"] in ("failed", "diverged") for outcome in outcomes) else 0


def quiet() -> None:
    """Keeps Lightning's advice off the screen; its warnings about what a run does stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in ("Checkpoint directory", ".*LeafSpec", "The `?.*dataloader.*does not have many workers"):
        warnings.filterwarnings("ignore", text)


def say(error: Exception) -> int:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    return 2


def explain(error: Exception) -> str:
    """Hydra's or OmegaConf's complaint in one line, with the nearest right name."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"unknown {group} {name!r}: choose {nearest(name, list(error.options))}"
    text = str(error).splitlines()[0]
    if isinstance(error, ConfigCompositionException) and (found := re.search(r"Could not override '([^']+)'", text)):
        key = found[1].split("@")[0]
        return f"unknown setting {key!r}: {nearest(key, known_keys())}; --help shows them"
    return text


def known_keys() -> list[str]:
    """Dotted names of all settings of the default configuration."""
    if not GlobalHydra.instance().is_initialized():
        return []
    cfg = OmegaConf.to_container(hydra.compose("train"), resolve=False)
    return [*flatten(cfg, "")]


def flatten(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [name for key, value in node.items() for name in flatten(value, f"{prefix}.{key}" if prefix else str(key))]
