"""Lists of labels and splits: csv, JSON and text files, and which image a listed path means."""

import csv
import io
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fewshot.data.archives import File, is_image_name
from fewshot.data.decode import Example
from fewshot.data.splits import split_in, split_named
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

IMAGE = "(file|image|img)(name|path|file|id)?|path|id"  # names of columns
LABEL = "(label|class|category)(name)?|labels|species|breed|target"
FORMS = (
    "folders train, val and test with class folders in them; a csv with the columns filename,label,split or "
    "class,split; train.csv, val.csv and test.csv with the columns filename,label; "
    'split.json as {"train": [classes], …} or {class: "train", …}; '
    "or train.txt, val.txt and test.txt with a class or an image a line"
)


class Row(NamedTuple):
    """An image and its class, or a class (as `label`); "" is what the list does not say."""

    image: str
    label: str
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """The rows of a file, or of train.csv, val.csv and test.csv together."""

    files: tuple[File, ...]
    rows: list[Row]

    def __str__(self) -> str:
        return ", ".join([str(self.files[0]), *(file.parts[-1] for file in self.files[1:])])


def read_lists(files: Iterable[File]) -> list[Listing]:
    """Every list of labels or of a split; train.csv, val.csv and test.csv in a folder are one."""
    found: list[Listing] = []
    sets: dict[tuple[str, str], dict[str, Listing]] = defaultdict(dict)
    for file in files:
        path = PurePosixPath(file.path)
        split, suffix = split_named(path.stem), path.suffix.lower()
        rows: list[Row] = []
        if suffix in (".csv", ".tsv") and "submission" not in path.stem.lower():
            rows = csv_rows(file)
        elif suffix == ".json":
            rows = json_rows(file)
        elif suffix == ".txt" and split:
            rows = [Row("", line.strip()) for line in file.text().splitlines() if line.strip()]
        of_set = sets[str(path.parent), suffix]
        if rows and split and not rows[0].split and split not in of_set:
            of_set[split] = Listing((file,), rows)
        elif rows:
            found.append(Listing((file,), rows))
    for (_, suffix), of_set in sets.items():
        if {"train", "test"} <= of_set.keys():
            parts = [(split, of_set[split]) for split in SPLITS if split in of_set]
            rows = [row._replace(split=split) for split, part in parts for row in part.rows]
            found.append(Listing(tuple(part.files[0] for _, part in parts), rows))
        elif suffix != ".txt":
            found += of_set.values()
    return found


def json_rows(file: File) -> list[Row]:
    """{split: [classes]} or {class: split}; nothing of another file."""
    try:
        read = json.loads(file.text())
    except ValueError:
        return []
    pairs = list(read.items()) if isinstance(read, dict) else []
    if all(isinstance(names, list) for _, names in pairs):
        pairs = [(str(name), split) for split, names in pairs for name in names]
    rows = [Row("", name, split_named(str(split)) or "") for name, split in pairs]
    return rows if all(row.split for row in rows) else []


def csv_rows(file: File) -> list[Row]:
    """A row an image, or a row a class; nothing where no column names classes, or neither images nor a split.

    Raises:
        UserError: it is unclear what a column means, or a row is incomplete.
    """
    columns, rows = cells(file)
    if any(map(is_image_name, columns)):
        raise UserError(f"{file} has no header: add a first line with the names of its columns")
    images, labels, splits = (named(columns, pattern) for pattern in (IMAGE, LABEL, "split"))
    files = [column for column in columns if any(is_image_name(row[column]) for row in rows)]
    ids = named(columns, "id") if splits else []  # perhaps of classes
    images = [c for c in images if c in files] or files or [c for c in images if c not in ids]
    used = [*images, *labels, *splits]
    for column in columns:
        words = {split_named(row[column]) for row in rows}
        if column not in used and ((labels and split_in(column)) or {"train", "test"} <= words):
            raise UserError(f"{file}: the column {column} looks like a split: call it split, or remove it")
    if not labels or not (images or splits):
        return []
    if len(labels) > 1 or len(images) > 1 or len(splits) > 1:
        raise UserError(
            f"{file} has the columns {', '.join(used)}: only one may name the images (filename), one their "
            f"classes (label), and one the split (split): rename or remove the others"
        )
    found = []
    for row in rows:
        if row.get(None) or not all(row[column] for column in used):
            raise UserError(f"{file} has an incomplete row, {list(row.values())}: it needs {', '.join(used)}")
        split = split_named(row[splits[0]]) if splits else ""
        if split is None:
            raise UserError(f"{file}: the split {row[splits[0]]!r} is not train, val or test")
        found.append(Row(row[images[0]] if images else "", row[labels[0]], split))
    return found


def named(columns: Iterable[str], pattern: str) -> list[str]:
    """The columns with such a name, in any case and with any blanks and signs."""
    return [c for c in columns if re.fullmatch(pattern, re.sub("[^a-z]", "", c.lower()))]


def cells(file: File) -> tuple[Sequence[str], list[dict[Any, Any]]]:
    """The header of a csv file and its rows; commas, semicolons, tabs or | separate the cells."""
    text = file.text()
    delimiter = max(",;\t|", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", strict=True)
    try:
        rows = [{key: "".join(cell).strip() for key, cell in row.items()} for row in reader]
    except csv.Error as error:
        raise UserError(f"{file} is no csv file ({error}): correct or remove it") from error
    return reader.fieldnames or [], [row for row in rows if any(row.values())]


class Finder:
    """Finds the images that lists name."""

    def __init__(self, images: Iterable[File]) -> None:
        self.named: dict[str, list[tuple[str, File]]] = defaultdict(list)
        for image in images:
            path = PurePosixPath(image.path.lower())
            for key in (path.name, path.stem):
                self.named[key].append((str(path), image))

    def examples(self, listing: Listing) -> list[Example]:
        """The images of a list's rows; where several match, the one in a folder named like the class.

        Raises:
            UserError: images are missing, or a name can mean several images.
        """
        examples, missing = [], []
        for listed, label, split in listing.rows:
            found = self.find(listed)
            if len(found) > 1:
                found = [file for file in found if label in file.parts[:-1]] or found
            if len(found) > 1 and len({file.read() for file in found}) == 1:  # copies
                found = found[:1]
            if len(found) > 1:
                raise UserError(
                    f"{listing} lists {listed}, which matches {len(found)} images ({found[0]}, {found[1]}): "
                    f"give more of its path there, or remove the others"
                )
            if found:
                examples.append(Example(split, label, found[0]))
            else:
                missing.append(listed)
        if missing:
            raise UserError(
                f"{len(missing)} images are missing: {listing} lists {missing[0]}, which is not there: "
                f"add them, or remove their rows"
            )
        return examples

    def find(self, listed: str) -> list[File]:
        """The images whose path ends with `listed`, in upper or lower case, with or without its suffix."""
        path = PurePosixPath(unicodedata.normalize("NFC", listed.replace("\\", "/")).lower())
        end = "/" + "/".join(part for part in path.parts if part not in ("/", ".."))
        close = self.named.get(path.name, [])
        if not is_image_name(listed):
            close = [(full.rpartition(".")[0], file) for full, file in close]
        return [file for full, file in close if full.endswith(end)]
