"""Checks of a command line, before and after Hydra has read it; every message names the word and the mend."""

import re
import sys
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import check_words, conf_folders
from fewshot.config.settings import choices_of
from fewshot.errors import UserError
from fewshot.options import nearest


def check_line(arguments: list[str]) -> None:
    """UserError for what Hydra would answer with its usage, or would take and change nothing by."""
    for argument in arguments:
        if re.match(r"\+*hydra\.(run\.dir|sweep\.subdir|output_subdir|job\.chdir)=", argument):
            raise UserError(
                f"{argument}: a run's folder is named by what it does; paths.outputs says where it is"
            )
    if (launcher := [a for a in arguments if a.startswith("hydra/launcher=")]) and not is_multirun(arguments):
        raise UserError(f"{launcher[0]} is for the cells of a multirun: add -m")
    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    if unknown := [
        a for a in arguments if a.startswith("-") and a.split("=")[0] not in parser._option_string_actions
    ]:
        raise UserError(f"{unknown[0]}: a setting is given without dashes, as shots=5")
    told, _ = parser.parse_known_args([a for a in arguments if not a.startswith("--version")])
    check_words(told.overrides)
    told_of = {o.lstrip("+").split("=")[0] for o in told.overrides}
    if {"experiment", "search"} <= told_of:
        raise UserError("experiment=… and search=…: a command runs one study, leave out one of them")
    if {"study", "search"} <= told_of:
        raise UserError(
            "study=… beside search=…: a search draws its trials by its own name, leave out study="
        )
    folder = conf_folders()[0]
    if not folder.is_dir():
        raise UserError(f"FEWSHOT_CONF={folder} is no folder")


def is_multirun(arguments: list[str]) -> bool:
    return any(a in ("-m", "--multirun") or re.match("hydra.mode=multirun", a, re.I) for a in arguments)


def refuse(message: str) -> NoReturn:
    raise UserError(message)


def tell_of_others(hydra_cfg: Any, told: list[str]) -> None:
    """A line where a study's name alone starts one of its cells; UserError where that is a trial."""
    kind = "search" if "search" in told else "experiment"
    study = f"{kind}={hydra_cfg.runtime.choices.get(kind)}"
    left = [key for key in hydra_cfg.sweeper.get("params") or {} if key not in told]
    if "trial" in left:
        raise UserError(f"{study} is a search: -m runs its trials, trial=0 one of them")
    if left:
        print(
            f"this is one cell of {study}, which sweeps {', '.join(left)}: -m runs them all", file=sys.stderr
        )


def refuse_other_way(hydra_cfg: Any, cfg: DictConfig) -> None:
    """UserError where a sweeper would look for the worst validation score."""
    direction = hydra_cfg.sweeper.get("direction")
    if direction is None or not OmegaConf.is_dict(cfg.data):
        return
    right = "minimize" if cfg.data.name == "sine" else "maximize"
    if str(direction).split(".")[-1].lower() != right:
        raise UserError(
            f"hydra.sweeper.direction={direction} finds the worst: data={cfg.data.name} needs {right}"
        )


def refuse_renamed(cfg: DictConfig, choices: Any, overrides: list[str]) -> None:
    """UserError where a group's name was set alone, as method.name=maml, which would not choose its settings."""
    for group in ("method", "data", "backbone", "logger"):
        name = OmegaConf.select(cfg, f"{group}.name")
        if group in choices and name != choices[group]:
            if not any(f"{group}.name=" in override for override in overrides):
                file = f"conf/{group}/{choices[group]}.yaml"
                raise UserError(
                    f"{file} says name: {name}, and is chosen as {group}={choices[group]}: make them one"
                )
            raise UserError(f"{group}.name={name} is no setting: choose it as {group}={name}")
    usual, chosen = f"{choices.get('method')}-{choices.get('family')}", choices.get("settings")
    if chosen not in (None, usual, *choices_of("settings")):
        raise UserError(f"unknown settings {chosen!r}: choose {nearest(chosen, choices_of('settings'))}")
