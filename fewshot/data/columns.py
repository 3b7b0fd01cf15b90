"""Csv files: which columns name the images or classes, the classes of images, and the split."""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fewshot.data.archives import FILE_BYTES, Member, opened
from fewshot.data.decode import is_image_name
from fewshot.data.matching import Finder
from fewshot.data.splits import speaks_of_splits, split_named, split_word
from fewshot.errors import UserError

FILE = {
    "filename",
    "file",
    "filepath",
    "path",
    "image",
    "imagename",
    "imagepath",
    "imagefile",
    "imageid",
    "img",
    "id",
}
LABEL = {
    "label",
    "labels",
    "labelname",
    "class",
    "classname",
    "category",
    "categoryname",
    "species",
    "breed",
    "target",
}
UNSPLIT = ""  # the key of rows that name no split
Rows = list[tuple[str, str | None]]  # an image or a class, and an image's class


@dataclass(frozen=True)
class Listing:
    """What one file, or one file a split, lists; `name` and `columns` are for messages."""

    name: str
    files: tuple[Member, ...]
    rows: dict[str, Rows]  # by split, or UNSPLIT alone
    columns: str = ""


def from_csv(file: Member, images: Finder) -> Listing | None:
    """A row an image or a row a class; None where no column names images, or classes and their split.

    Raises:
        UserError: it names images or a split, but which column says what is unclear, or a row is incomplete.
    """
    columns, rows = cells(file)
    kinds = kinds_of(columns)
    labels, splits = ([at for at, kind in enumerate(kinds) if kind in names] for names in (LABEL, {"split"}))
    if len(columns) == 1 and any(len(row) > 1 for row in rows):
        raise UserError(
            f"{file}: its first line must name the columns, as filename,label, and is {columns[0]!r}"
        )
    what = image_column(file, columns, kinds, rows, images)
    unlabelled_test = (
        not labels and split_word(file.parts[-1])[1] == "test"
    )  # as in downloads of a competition
    if len(columns) == 1 or (what is None and not (labels and splits)) or unlabelled_test:
        return None
    if len(labels) != 1 or len(splits) > 1:
        raise unclear(
            file, columns, "one of them must be called label (or class, category, species), and only one"
        )
    used = [labels[0] if what is None else what, labels[0], *splits]
    if what is not None and not splits:
        refuse_hidden_split(file, columns, rows, used)
    names = [columns[at] for at in dict.fromkeys(used)]
    listed: dict[str, Rows] = {}
    for row in rows:
        if any(row[len(columns) :]):
            raise UserError(
                f"{file}: the row {row} has more cells than the header: put a cell with a comma in quotes"
            )
        row += [""] * (len(columns) - len(row))
        if empty := [columns[at] for at in used if not row[at]]:
            raise UserError(
                f"{file} has a row with an empty {empty[0]}: fill it in, or remove the row; it needs the columns "
                f"{','.join(names)} in every row"
            )
        split = split_named(row[splits[0]]) if splits else UNSPLIT
        if split is None:
            word = row[splits[0]]
            raise UserError(
                f"{file}: {row[used[0]]!r} is in split {word!r}: a split is train, val or test, give one of them"
            )
        listed.setdefault(split, []).append((row[used[0]], None if what is None else row[labels[0]]))
    return Listing(str(file), (file,), listed, f"the columns {' and '.join(names)} of ")


def image_column(
    file: Member, columns: Sequence[str], kinds: Sequence[str], rows: Sequence[Sequence[str]], images: Finder
) -> int | None:
    """The column that names image files; else one of image names without suffix, if they are there."""
    if any(map(is_image_name, columns)):
        raise UserError(f"{file} has no header: add a first line that names its columns, as filename,label")
    known = [at for at, kind in enumerate(kinds) if kind in FILE]
    files = [at for at in range(len(columns)) if any(is_image_name(row[at]) for row in rows if at < len(row))]
    ids = [at for at in known if any(images.find(row[at]) for row in rows if at < len(row))]
    meant = [at for at in known if kinds[at] != "id" or "split" not in kinds] if LABEL & {*kinds} else []
    found = [at for at in files if at in known] or files or ids or meant
    if not found and not (LABEL & {*kinds} and "split" in kinds):
        found = [at for at, kind in enumerate(kinds) if kind not in LABEL and names_images(rows, at, images)]
    if len(found) > 1 or (found and found[0] not in known):
        raise unclear(
            file, columns, "the one that names the images must be called filename, and only that one"
        )
    return found[0] if found else None


def kinds_of(columns: Sequence[str]) -> list[str]:
    """The names of columns without case, blanks and signs."""
    return [re.sub("[^a-z]", "", column.lower()) for column in columns]


def names_images(rows: Sequence[Sequence[str]], at: int, images: Finder) -> bool:
    """Whether most cells of a column are names of images that are there, and no mere numbers."""
    found = [bool(images.find(row[at])) and not row[at].isdigit() for row in rows if at < len(row)]
    return sum(found) > len(found) / 2


def unclear(file: Member, columns: Sequence[str], rule: str) -> UserError:
    return UserError(
        f"{file} has the columns {', '.join(columns)}: {rule}; rename or remove columns, or the file"
    )


def refuse_hidden_split(
    file: Member, columns: Sequence[str], rows: Sequence[Sequence[str]], used: Sequence[int]
) -> None:
    """UserError where a column that is not called split looks like one."""
    for at, column in enumerate(columns):
        words = {split_named(row[at]) for row in rows if at < len(row)}
        if at not in used and ({"train", "test"} <= words or speaks_of_splits(column)):
            raise UserError(f"{file}: the column {column} looks like a split: call it split, or remove it")


def cells(file: Member) -> tuple[list[str], list[list[str]]]:
    """The header of a csv file and its rows, without empty ones; commas, semicolons, tabs or | separate the cells."""
    text = re.sub("^sep=.\r?\n", "", text_of(file))  # a spreadsheet's first line
    delimiter = max(",;\t|", key="\n".join(text.split("\n", 5)[:5]).count)
    try:
        read = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{file} is no csv file ({error}): it needs the columns filename,label or class,split; replace or remove it"
        ) from error
    rows = [[cell.strip() for cell in row] for row in read]
    rows = [row for row in rows if any(row)]
    return (rows[0], rows[1:]) if rows else ([], [])


def text_of(file: Member) -> str:
    """A file's text, in UTF-8 or, with its mark at the start, UTF-16."""
    with opened(file) as stream:
        data = stream.read(FILE_BYTES)
    try:
        text = data.decode(
            "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        )
        if "\0" in text:
            raise ValueError("it has null characters")
    except ValueError as error:
        raise UserError(f"{file} is no UTF-8 text: save it as such, or remove it") from error
    return text
