"""A split that a file lists: csv, JSON or text."""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from fewshot.data.archives import Member
from fewshot.data.decode import is_image
from fewshot.data.splits import Files, class_folders, rows, split_named, text_of
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

FORMS = (
    "a csv with the columns filename,label,split or class,split; split.json as {split: [classes]} or {class: split}; "
    "or train.txt, val.txt and test.txt with a class a line"
)
Row = tuple[str, str, str | None]  # a class or an image file, its split, an image's class


def by_list(files: Sequence[Member]) -> tuple[Files, str] | None:
    """The splits that a file lists, and how it is called; None where there is no such file.

    Raises:
        UserError: several files do, or one names a split or a class that is not there.
    """
    found: dict[str, list[Row]] = {}
    texts: dict[str, list[Row]] = {}
    for file in files:
        name = file.parts[-1].lower()
        if name.endswith((".csv", ".json")) and (listed := (from_csv if name.endswith(".csv") else from_json)(file)):
            found[str(file)] = listed
        elif name.endswith(".txt") and (split := split_named(name.removesuffix(".txt"))):
            lines = [line.strip() for line in text_of(file).splitlines()]
            texts.setdefault(str(file).replace(file.parts[-1], "train.txt and test.txt"), []).extend(
                (line, split, None) for line in lines if line
            )
    found |= {place: told for place, told in texts.items() if {"train", "test"} <= {split for _, split, _ in told}}
    if len(found) > 1:
        raise UserError(f"several files say how the classes are split, keep one of them: {', '.join(found)}")
    for name, told in found.items():
        return assigned(name, told, files), name
    return None


def from_csv(file: Member) -> list[Row]:
    """A row an image, or a row a class; nothing for another file."""
    for columns in ("filename split label", "filename split class", "class split", "label split"):
        if told := rows(file, *columns.split()):
            return [(row[0], row[1], row[2] if len(row) > 2 else None) for row in told]
    return []


def from_json(file: Member) -> list[Row]:
    """{split: [classes]} or {class: split}; nothing for another file."""
    try:
        told = json.loads(text_of(file))
    except (ValueError, RecursionError):
        return []
    if not isinstance(told, dict) or not told:
        return []
    if all(split_named(str(key)) and isinstance(names, list) for key, names in told.items()):
        return [(str(name), key, None) for key, names in told.items() for name in names]
    if all(isinstance(split, str) and split_named(split) for split in told.values()):
        return [(str(name), split, None) for name, split in told.items()]
    return []


def assigned(name: str, told: Sequence[Row], files: Sequence[Member]) -> Files:
    """The images of each class listed: a class is a folder's path or, where that says enough, its last name."""
    folders, images = class_folders(files), dict[str, list[Member]]()
    for file in filter(is_image, files):
        images.setdefault(file.parts[-1], []).append(file)
    ends: dict[str, list[str]] = {}
    for folder in folders:
        ends.setdefault(folder.rpartition("/")[2], []).append(folder)
    splits: Files = {split: {} for split in SPLITS}
    for what, word, label in told:
        split, named = split_named(word), PurePosixPath(what)
        if split is None:
            raise UserError(f"{name}: {what!r} is in split {word!r}: a split is train, val or test, give one of them")
        if label is not None or (what not in folders and named.name in images):  # an image
            image = the_image(name, named, label, images.get(named.name, []))
            splits[split].setdefault(label or image.parts[-2], {})[image.name] = image
            continue
        found = [what] if what in folders else ends.get(named.name, [])
        if len(found) != 1:
            raise UserError(
                f"{name}: {len(found)} folders with images are called {what!r}, and it needs one of each name"
            )
        splits[split][what] = folders[found[0]]
    return splits


def the_image(name: str, path: PurePosixPath, label: str | None, called_so: Sequence[Member]) -> Member:
    """Of the images with a file's name the one of its path, as far as the list gives one, else the one of its class."""
    there = [file for file in called_so if f"/{file.name}".endswith(f"/{path}")] or called_so
    if len(there) > 1:
        there = [file for file in there if label in file.parts[:-1]]
    if len(there) != 1:
        how_many = "which is not there" if not called_so else f"and {len(called_so)} images are called so"
        raise UserError(f"{name} lists {path}, {how_many}: give the path of one that is there, or remove its line")
    return there[0]
