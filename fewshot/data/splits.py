"""The ways in which files say which class and which split they belong to."""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence

from fewshot.data.archives import Member, opened
from fewshot.data.decode import is_image
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

Images = dict[str, Member]  # by file name: what is there twice, say packed and unpacked, counts once
Files = dict[str, dict[str, Images]]  # by split and class

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
        for name, label in rows(table, "filename", "label"):
            if name not in images:
                missing.append(name)
            else:
                splits[split].setdefault(label, {})[name] = images[name]
    return splits, missing


def by_folders(files: Iterable[Member]) -> Files | None:
    """Class folders in folders train, val and test; None where one of these has none."""
    splits: Files = {split: {} for split in SPLITS}
    for file in filter(is_image, files):
        if len(file.parts) >= 3 and file.parts[-3] in SPLITS:
            splits[file.parts[-3]].setdefault(file.parts[-2], {}).setdefault(file.parts[-1], file)
    return splits if all(splits.values()) else None


def seeded(names: Iterable[str], seed: int = 0) -> dict[str, str]:
    """Class name -> split, 64/16/20% of them. By a hash: the same on every machine and with every library."""
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    train, val = round(0.64 * len(order)), round(0.8 * len(order))
    return {name: SPLITS[(i >= train) + (i >= val)] for i, name in enumerate(order)}


def find(files: Iterable[Member], name: str) -> Member | None:
    """The first file of that name, in any folder or archive."""
    return next((file for file in files if file.parts[-1] == name), None)


def rows(table: Member, *columns: str) -> list[tuple[str, ...]]:
    """The named columns of a csv file.

    Raises:
        UserError: a column is not there, or no text.
    """
    try:
        with opened(table) as stream:
            reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
            return [tuple(row[column].strip() for column in columns) for row in reader]
    except (KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} needs the columns {','.join(columns)} in every row") from error
