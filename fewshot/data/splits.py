"""The ways in which files say which class and which split they belong to."""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from fewshot.data.archives import Member, opened
from fewshot.data.decode import is_image
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

Images = dict[str, Member]  # by file name: what is there twice, say packed and unpacked, counts once
Files = dict[str, dict[str, Images]]  # by split and class

WORDS = {
    "train": {"train", "training", "base", "background"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "novel", "evaluation"},
}
LARGEST = 50_000_000  # bytes of a list
SEEDED_NOTE = "classes split 64/16/20% in the order of sha256('0/' + class name)"


def by_csv(files: Sequence[Member]) -> tuple[Files, list[str]] | None:
    """Ravi's form: train.csv, val.csv and test.csv with columns filename, label; None where one is not there.

    Returns:
        The files, found by name in any folder or archive (the first of that name), and the names not found.
    """
    tables = {split: table for split in SPLITS if (table := find(files, f"{split}.csv"))}
    if len(tables) < len(SPLITS):
        return None
    images: Images = {}
    for file in filter(is_image, files):
        images.setdefault(file.parts[-1], file)
    splits: Files = {split: {} for split in SPLITS}
    missing = []
    for split, table in tables.items():
        if (told := rows(table, "filename", "label")) is None:
            raise UserError(f"{table} needs the columns filename,label")
        for name, label in told:
            if name not in images:
                missing.append(name)
            else:
                splits[split].setdefault(label, {})[name] = images[name]
    return splits, missing


def split_named(name: str) -> str | None:
    """The split that a word means, as the field has it: in any case, singular or plural, with meta- before it."""
    word = re.sub(r"[^a-z]", "", name.lower()).removeprefix("meta")
    return next((split for split, words in WORDS.items() if {word, word.removesuffix("s")} & words), None)


def by_folders(files: Iterable[Member]) -> Files | None:
    """Class folders in folders that are named as splits; None where there are none to train on, or to test on."""
    splits: Files = {split: {} for split in SPLITS}
    for file in filter(is_image, files):
        if len(file.parts) >= 3 and (split := split_named(file.parts[-3])):
            splits[split].setdefault(file.parts[-2], {}).setdefault(file.parts[-1], file)
    return splits if splits["train"] and splits["test"] else None


def class_folders(files: Sequence[Member]) -> dict[str, Images]:
    """Images by the path of their folder, so that a/1 and b/1 are two classes."""
    classes: dict[str, Images] = {}
    for file in filter(is_image, files):
        if len(file.parts) > 1:
            classes.setdefault(str(PurePosixPath(file.name).parent), {}).setdefault(file.parts[-1], file)
    return classes


def with_validation(splits: Files) -> tuple[Files, str]:
    """The splits, and what was done where none is for validation: a fifth of the training classes is taken for it."""
    if splits["val"]:
        return splits, ""
    order = by_hash(splits["train"])
    held = set(order[: max(1, round(0.2 * len(order)))])
    train = {name: images for name, images in splits["train"].items() if name not in held}
    val = {name: images for name, images in splits["train"].items() if name in held}
    return {"train": train, "val": val, "test": splits["test"]}, f", {len(val)} of its training classes for validation"


def seeded(names: Iterable[str], seed: int = 0) -> dict[str, str]:
    """Class name -> split, 64/16/20% of them. By a hash: the same on every machine and with every library."""
    order = by_hash(names, seed)
    train, val = round(0.64 * len(order)), round(0.8 * len(order))
    return {name: SPLITS[(i >= train) + (i >= val)] for i, name in enumerate(order)}


def by_hash(names: Iterable[str], seed: int = 0) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def find(files: Iterable[Member], name: str) -> Member | None:
    """The first file of that name, in any folder or archive."""
    return next((file for file in files if file.parts[-1] == name), None)


def text_of(file: Member) -> str:
    with opened(file) as stream:
        try:
            return stream.read(LARGEST).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is no UTF-8 text: save it as such, or take it away") from error


def rows(table: Member, *columns: str) -> list[tuple[str, ...]] | None:
    """The named columns of a csv file, whose own names may be in any case; None where it has not all of them.

    Raises:
        UserError: a row is too short, or no csv, or has an empty cell.
    """
    try:
        reader = csv.DictReader(io.StringIO(text_of(table), newline=""))
        names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        if not names.keys() >= {*columns}:
            return None
        told = [tuple(row[names[c]].strip() for c in columns) for row in reader]
    except (AttributeError, csv.Error) as error:
        raise UserError(f"{table} needs the columns {','.join(columns)} in every row") from error
    if bare := [row for row in told if not all(row)]:
        raise UserError(f"{table} has a row with an empty {columns[bare[0].index('')]}: fill it in, or remove the row")
    return told
