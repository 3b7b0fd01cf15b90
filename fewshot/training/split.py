"""A run keeps the split of its classes, so that none that it was trained on is ever tested."""

import json
import sys
from pathlib import Path

from fewshot.data.datamodule import Source
from fewshot.data.image_source import ImageSource
from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.files import atomic_write


def keep_split(folder: Path, source: Source, table: str) -> None:
    """Writes the run's `split.json`: the table's name, each split's classes and their numbers of images, and which
    classes have too few."""
    if isinstance(source, ImageSource):
        left_out = {"left_out": few} if (few := source.left_out()) else {}
        atomic_write(folder / "split.json", json.dumps({"table": table} | source.classes() | left_out) + "\n")


def kept_table(folder: Path) -> str | None:
    """The name of the table that the run was trained on; None where the run keeps none."""
    path = folder / "split.json"
    return read_split(path)[0] if path.is_file() else None


def check_split(folder: Path, source: Source) -> None:
    """UserError where the run's data are no longer split as they were when it began.

    A class that was trained or validated on could otherwise be tested on, say in a folder that has grown.
    """
    if not isinstance(source, ImageSource) or (was := kept_split(folder)) is None:
        return
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


def kept_split(folder: Path) -> dict[str, tuple[str, int]] | None:
    """The split and number of images of each class when the run began; None, and a line, where it kept none."""
    path = folder / "split.json"
    if not path.is_file():
        if (folder / "best.ckpt").exists():
            print(
                f"{folder} keeps no split.json: that its classes are split as they were is not checked",
                file=sys.stderr,
            )
        return None
    return read_split(path)[1]


def read_split(path: Path) -> tuple[str | None, dict[str, tuple[str, int]]]:
    """The name of the table, and the split and number of images of each class; UserError where that is not there."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept.get("table"), {name: (split, count) for split in SPLITS for name, count in kept[split]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a run's split: {type(error).__name__} {error}") from error


def tell_of_trained_classes(folder: Path, source: Source) -> None:
    """A line where a test on other data has classes of the names that the run was trained or validated on."""
    if not isinstance(source, ImageSource) or (was := kept_split(folder)) is None:
        return
    seen = [name for name, _ in source.classes()["test"] if was.get(name, ("test", 0))[0] != "test"]
    if seen:
        names = ", ".join(seen[:3]) + ", …" * (len(seen) > 3)
        print(
            f"{len(seen)} test classes are called as some that the run was trained on: {names}",
            file=sys.stderr,
        )
