"""Checks that a folder of images can be read in one way only."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewshot.data.archives import SPREADSHEETS, Member, read
from fewshot.data.columns import LABEL, Listing, cells, kinds_of
from fewshot.data.decode import is_image
from fewshot.data.listed import FORMS
from fewshot.data.splits import Files, Images, speaks_of_splits, split_named, split_word
from fewshot.errors import UserError

LISTS = (
    "csv",
    "tsv",
    "json",
    "txt",
    "xls",
    "xlsx",
    "ods",
    "mat",
    "pkl",
    "npy",
    "yaml",
    "xml",
)  # may hold labels


def refuse_other_split(path: Path, splits: Files, folders: Files | None, lists: Listing) -> None:
    """UserError where the folders of an image say another split than the list does."""
    listed = {
        image: split for split, c in splits.items() for of_class in c.values() for image in of_class.values()
    }
    for split, classes in (folders or {}).items():
        for image in (image for of_class in classes.values() for image in of_class.values()):
            if listed.get(image, split) != split:
                raise UserError(
                    f"{path} can be read in more than one way: {image} is in {listed[image]} by {lists.name} and in "
                    f"{split} by its folder: keep one of them, and remove or rename the other"
                )


def refuse_other_lists(path: Path, files: Sequence[Member], found: Sequence[Listing]) -> None:
    """UserError where a further file looks like a split, and is none that can be read."""
    read_ones = {file for listing in found for file in listing.files}
    others = [
        file.name for file in files if not is_image(file) and file not in read_ones and split_like(file)
    ]
    if others:
        raise UserError(
            f"{path} can be read in more than one way: it has a split, and {', '.join(others[:4])} may be another one, "
            f"which is not like one of these: {FORMS}. Remove one of them"
        )


def same_names(classes: Mapping[str, Images]) -> str:
    """What to say of class folders of the same name in several places."""
    places: dict[str, list[str]] = {}
    for name in classes:
        places.setdefault(name.rpartition("/")[2], []).append(name)
    several = [names for names in places.values() if len(names) > 1]
    if not several:
        return ""
    pair = " and ".join(several[0][:2])
    return f" ({len(several)} names are in several places and are different classes there, as {pair})"


def refuse_near_names(path: Path, classes: Sequence[str]) -> None:
    """UserError where two classes differ only in case, in blanks, or in how a letter or a number is written."""
    seen: dict[str, str] = {}
    for name in classes:
        plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        plain = re.sub(r"^0*(\d+)(\.0+)?$", r"\1", plain)
        if (other := seen.setdefault(plain, name)) != name:
            raise UserError(
                f"{path}: the classes {other!r} and {name!r} differ only in case, in blanks, or in how a letter or a "
                "number is written: give them one name, or names that differ more"
            )


def refuse_two_sets(path: Path, files: Sequence[Member]) -> None:
    """UserError where two places have folders for one split that are no copies of each other."""
    places: dict[str, dict[tuple[str, ...], list[Member]]] = {}
    for file in filter(is_image, files):
        if len(file.parts) > 2 and (split := split_named(file.parts[-3])):
            places.setdefault(split, {}).setdefault(file.parts[:-3], []).append(file)
    for split, found in places.items():
        if len(found) == 1:
            continue
        held = []
        for of_place in found.values():
            digests = {of_place[at].parts[-3:]: hashlib.sha256(data).digest() for at, data in read(of_place)}
            held.append(digests)
        if any(digests != held[0] for digests in held):
            ways = "; ".join("/".join(place) or "the folder itself" for place in found)
            raise UserError(
                f"{path} can be read in more than one way, {split} classes are in several places, keep one of them "
                f"and remove the others: {ways}"
            )


def refuse_unknown_split(
    path: Path, files: Sequence[Member], classes: Mapping[str, Images], labels: Listing | None
) -> None:
    """UserError where a folder, a file or class folders look like a split: no class may be mixed up with one that it
    is held out for."""
    if labels:
        parts: dict[str, set[str]] = {}
        for name, of_class in classes.items():
            for part in {
                part for image in of_class.values() for part in image.parts[:-1] if split_word(part)[1]
            }:
                parts.setdefault(part, set()).add(name)
        several = sorted(part for part, names in parts.items() if len(names) > 1)
        likely = several if len({split_word(part)[1] for part in several}) > 1 else []
        likely += [
            file.name
            for file in files
            if not is_image(file) and file not in labels.files and split_like(file)
        ]
    else:
        likely = sorted({like for file in files if (like := split_like(file))})
        own = {
            name: split
            for file in filter(is_image, files)
            if (split := split_named(name := ("", *file.parts)[-2]))
        }
        packed = {file.container.name for file in files if is_image(file) and file.kind != "file"}
        archives = {name: split for name in packed if (split := split_word(name)[1])}
        likely += sorted(archives) if len(set(archives.values())) > 1 else []
        likely = likely or (sorted(own) if len(set(own.values())) > 1 else [])
        if sheets := [file.name for file in files if file.name.lower().endswith(SPREADSHEETS)]:
            raise UserError(
                f"{path}: {sheets[0]} may hold labels: export it as csv into this folder, or remove it"
            )
    if likely:
        many = "look like splits" if len(likely) > 1 else "looks like a split"
        beside = f", beside {labels.name}, which has none" if labels else ""
        raise UserError(
            f"{path}: {', '.join(likely[:4])} {many}{beside}, and not like one of these: folders train, val and test "
            f"with class folders in them; {FORMS}. Make it one of them, or remove it, or give the folder that holds "
            f"the class folders as data.path"
        )


def split_like(file: Member) -> str | None:
    """What of a file's place, name or cells looks like a split: a folder above images, or a list."""
    stem, _, suffix = file.parts[-1].lower().rpartition(".")
    if is_image(file):
        return next((part for part in file.parts[:-2] if speaks_of_splits(part)), None)
    if suffix not in LISTS or "submission" in stem:
        return None
    likely = speaks_of_splits(stem)
    if suffix in ("csv", "tsv"):
        columns, rows = cells(file)
        words = {split_named(cell) for row in rows for cell in row}
        of_competition = split_word(stem)[1] == "test" and not LABEL & {*kinds_of(columns)}
        likely = {"train", "test"} <= words or (likely and len(columns) > 1 and not of_competition)
    return file.name if likely else None


def unread(files: Sequence[Member], found: Sequence[Listing]) -> str:
    """The files that could hold labels or a split and were not read as such."""
    used = {file for listing in found for file in listing.files}
    names = [file.name for file in files if file not in used and file.parts[-1].lower().endswith(LISTS)]
    return f"; not read: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""
