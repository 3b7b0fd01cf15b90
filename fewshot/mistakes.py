"""A mistake in one line: what is wrong, and how to mend it."""

import io
import re
import sys

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException

from fewshot.config.checks import closest
from fewshot.config.compose import PATHS, WHOLE
from fewshot.config.settings import choices_of
from fewshot.errors import UserError
from fewshot.options import nearest


def any_letters() -> None:
    """A terminal without ± is no reason to lose a result."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


def say(error: Exception, program: str = "train") -> int:
    print("error: " + plain(explain(error, program)), file=sys.stderr)
    return 2


def plain(text: str) -> str:
    """One line without signs that steer terminals, as a stranger's file name may hold."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda sign: repr(sign[0])[1:-1], " ".join(text.split()))


def explain(error: Exception, program: str = "train") -> str:
    """A complaint, Hydra's and OmegaConf's cut to one line and with the nearest right name."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if (group, name, program) == ("hydra/launcher", "slurm", "evaluate"):
            return f"{group}={name} is train.py's: choose submitit_slurm"
        if str(error.missing_cfg_file).startswith("data/") and group != "data":
            folder = str(error.missing_cfg_file).removeprefix("data/")
            return f"data={folder}: a folder of images is data=folder data.path={folder}"
        plugin = name.split("_")[0]
        if plugin in ("joblib", "submitit", "optuna") and not any(
            there.startswith(plugin) for there in error.options
        ):
            return f"{group}={name} is not installed: pip install '.[sweeps]' has joblib, submitit and optuna"
        return f"unknown {group} {name!r}: choose {nearest(name, list(error.options))}"
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split())
    if type(error).__module__.startswith("submitit") or "on a slurm cluster" in str(error):
        return of_cluster(str(error))
    text = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, ConfigCompositionException) and (
        found := re.search(r"Could not override '([^']+)'", text)
    ):
        key = found[1].split("@")[0]
        if program == "train" and (names := choices_of(key)):
            return f"{key}=… names none of its choices, one of {', '.join(names)}"
        return f"unknown setting {key!r}: {closest(key, program)}"
    if isinstance(error, OverrideParseException):
        mend = "a value with ~, spaces or brackets needs two pairs of quotes, as 'data.path=\"~/my images\"'"
        return f"{error.override} cannot be read as name=value: {mend}"
    if text.startswith("Could not append to config"):
        return f"{text} leave out the +"
    if text.startswith("Config group override must be"):
        return f"{text}: choose by name, as method=maml"
    if text.startswith("Error resolving interpolation '${method}"):  # there is none
        return "a run has a learner: choose it by name, as method=maml"
    if text.startswith("Error merging override") or (type(error) is ValueError and "invalid literal" in text):
        return f"{text}: {WHOLE}"
    if text.startswith("Ambiguous value for argument") and any(f"'{key}=" in text for key in PATHS):
        return f"{text.split(chr(10))[0]}: a path with a comma needs two pairs of quotes, as 'data.path=\"/my,images\"'"
    if text.startswith("Ambiguous value for argument"):
        return f"{text}: several values are a grid, which needs -m"
    return text


def of_cluster(text: str) -> str:
    """What Slurm refuses, or which job left no result."""
    if "gres" in text:
        return f"{text}: without GPUs take hydra.launcher.gpus_per_node=null"
    if "Job" in text:
        mend = "squeue lists the others, which go on; when they have ended, the same command runs what is missing"
        return f"{text[:400]}: {mend}"
    return text
