"""The configuration that a run's folder holds. The folder may be a stranger's: it is data, not code."""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fewshot.config.checks import check
from fewshot.config.compose import composed, flatten
from fewshot.config.settings import choices_of
from fewshot.errors import UserError
from fewshot.options import nearest

CONFIG_CHARACTERS = 100_000  # of a run's config.yaml, which has some 2 000


class PlainLoader(yaml.SafeLoader):
    """Plain data without aliases, of which a few lines can make more than fits into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds aliases, which no run writes")
        return super().compose_node(parent, index)


def stored_config(folder: Path) -> DictConfig:
    """A run's configuration, read as data and laid over the composed defaults: unknown keys are refused."""
    path = folder / "config.yaml"
    if not (folder / "best.ckpt").is_file() or not path.is_file():
        mend = "; train.py with overwrite=true makes it anew" if (folder / "last.ckpt").exists() else ""
        raise UserError(
            f"run={folder} is no run's folder with a validated state: it needs config.yaml and best.ckpt{mend}"
        )
    try:
        with path.open(encoding="utf-8") as file:
            stored = yaml.load(file.read(CONFIG_CHARACTERS), PlainLoader)
        groups = ("data", "method", "backbone", "logger")
        choices = {group: stored[group]["name"] for group in groups} | {"variant": stored["variant"]}
        shots = int(stored["shots"])
        stored["data"].pop("test", None)  # folders that may be gone
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise UserError(f"{path} is not a run's configuration: {type(error).__name__} {error}") from error
    interpolated = any("${" in f"{key} {value}" for key, value in flatten(stored).items())
    if interpolated or not all(re.fullmatch(r"\w[\w.-]*", str(choice)) for choice in choices.values()):
        raise UserError(f"{path} is not a run's resolved configuration: it holds more than plain values")
    for group in groups:
        if choices[group] not in (known := choices_of(group)):
            raise UserError(
                f"{path}: unknown {group} {choices[group]!r}: choose {nearest(choices[group], known)}"
            )
    overrides = [f"{group}={choice}" for group, choice in choices.items()] + [f"shots={shots}"]
    overrides += [f"+{key}=0" for key in ("trial", "search_seed") if key in stored]  # of a search
    try:
        shipped = composed(overrides)
        OmegaConf.set_struct(shipped.trainer.lightning, False)
        cfg = OmegaConf.merge(shipped, stored)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{path} does not fit this version: {str(error).splitlines()[0]}") from error
    assert isinstance(cfg, DictConfig)
    try:
        check(cfg)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return cfg
