"""What makes a run the run it is: the settings its score depends on, the folder named by them, the shipped ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.checks import flatten
from fewshot.cli import composed
from fewshot.data.datamodule import Source
from fewshot.data.image_source import ImageSource
from fewshot.data.images import full_name
from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.files import write_whole

# keys that do not change a score, left out of a run's identity
NOT_SCORE = ("logger", "paths", "force")
NOT_SCORE_TRAINER = ("eval_batch", "save_every", "log_every", "accelerator", "threads", "max_time", "bar", "similarity")
TEST_ONLY = ("test_queries", "test_queries_of", "test_tasks")


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What a run's score depends on, as plain data."""
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in NOT_SCORE:
        del plain[key]
    for key in NOT_SCORE_TRAINER:
        del plain["trainer"][key]
    plain["data"].pop("test", None)
    if "path" in plain["data"]:
        plain["data"]["path"] = full_name(cfg.data.name, Path(cfg.data.path))
    return plain


def run_folder(cfg: DictConfig) -> Path:
    """`<outputs>/<data>/<method>/<shots>-shot/seed<seed>-<hash of the identity>`."""
    digest = hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:10]
    return Path(cfg.paths.outputs) / cfg.data.name / cfg.method.name / f"{cfg.shots}-shot" / f"seed{cfg.seed}-{digest}"


def keep_split(folder: Path, source: Source) -> None:
    """Keeps the classes of each split, and their numbers of images, in the run's `split.json`."""
    if isinstance(source, ImageSource):
        write_whole(folder / "split.json", json.dumps(source.classes()) + "\n")


def check_split(folder: Path, source: Source) -> None:
    """UserError where the run's data are no longer split as they were when it began.

    A class that was trained or validated on could otherwise be tested on, say in a folder that has grown.
    """
    path = folder / "split.json"
    if not path.exists() or not isinstance(source, ImageSource):
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        was = {name: (split, count) for split in SPLITS for name, count in kept[split]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a run's split: {type(error).__name__} {error}") from error
    now = {name: (split, count) for split, classes in source.classes().items() for name, count in classes}
    differing = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    if differing:
        then, today = (
            f"{found[1]} images in {found[0]}" if (found := known.get(differing[0])) else "not there"
            for known in (was, now)
        )
        raise UserError(
            f"the run's data have changed since it began: class {differing[0]} was {then} and is {today}, so are "
            f"{len(differing)} classes in all: put the data back as they were (the run's split.json lists them), or "
            f"train on what is there now"
        )


def changed(cfg: DictConfig) -> dict[str, Any]:
    """The training settings that are not those the package ships for a method, data, shots and form, dotted."""
    choices = [f"data={cfg.data.name}", f"method={cfg.method.name}", f"shots={cfg.shots}", f"form={cfg.form}"]
    shipped = composed([*choices, f"seed={cfg.seed}"])
    own = [key for key, value in flatten(OmegaConf.to_container(shipped)).items() if value == "???"]
    for key in own:
        OmegaConf.update(shipped, key, OmegaConf.select(cfg, key))
    there = flatten(identity(shipped))
    return {
        key: value
        for key, value in flatten(identity(cfg)).items()
        if not set(key.split(".")) & set(TEST_ONLY) and (key in own or key not in there or there[key] != value)
    }
