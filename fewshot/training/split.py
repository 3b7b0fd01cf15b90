"""A run keeps the split of its classes, so that none that it was trained on is ever tested."""

import json
import sys
from pathlib import Path
from typing import Any

from fewshot.data.datamodule import Source
from fewshot.data.image_source import ImageSource
from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.files import atomic_write

Classes = dict[str, tuple[str, int]]  # name → split and number of images


def write_split(folder: Path, source: Source, table: str) -> None:
    """Writes `split.json`: the table's name, each split's classes with their numbers of images, those left
    out."""
    if isinstance(source, ImageSource):
        split: dict[str, Any] = {"table": table} | source.classes()
        if few := source.left_out():
            split["left_out"] = few
        atomic_write(folder / "split.json", json.dumps(split) + "\n")


def stored_table(folder: Path) -> str | None:
    """The name of the table that the run was trained on; None on sine waves."""
    path = folder / "split.json"
    return json.loads(path.read_text(encoding="utf-8")).get("table") if path.is_file() else None


def stored_split(folder: Path) -> Classes:
    """The classes of a run when it began; none on sine waves, and before it began."""
    path = folder / "split.json"
    if not path.is_file():
        return {}
    split = json.loads(path.read_text(encoding="utf-8"))
    return {name: (part, count) for part in SPLITS for name, count in split[part]}


def check_split(folder: Path, source: Source) -> None:
    """UserError where the run's data are no longer split as they were when it began.

    A class that was trained or validated on could otherwise be tested on, say in a folder that has grown.
    """
    then = stored_split(folder)
    if not isinstance(source, ImageSource) or not then:
        return
    now = {name: (split, count) for split, classes in source.classes().items() for name, count in classes}
    differing = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if differing:
        raise UserError(
            f"the run's data have changed since it began: {len(differing)} classes differ, first "
            f"{differing[0]!r}: restore the data (split.json lists them), or train on what is there now"
        )


def print_trained_classes(folder: Path, source: Source) -> None:
    """A line where a test on other data has classes of the names that the run was trained or validated on."""
    if isinstance(source, ImageSource):
        then = stored_split(folder)
        seen = [name for name, _ in source.classes()["test"] if then.get(name, ("test", 0))[0] != "test"]
        if seen:
            names = ", ".join(seen[:3]) + ", …" * (len(seen) > 3)
            print(f"{len(seen)} test classes have the names of classes trained on: {names}", file=sys.stderr)
