"""Anybody's images: a folder of class folders, or of images and csv files."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewshot.data.archives import Member, files_in, members, read
from fewshot.data.columns import UNSPLIT, Listing, cells
from fewshot.data.decode import from_members, is_image
from fewshot.data.listed import FORMS, all_labelled, assigned, listings
from fewshot.data.matching import Finder
from fewshot.data.splits import (
    SEEDED_NOTE,
    Files,
    Images,
    by_folders,
    class_folders,
    seeded,
    speaks_of_splits,
    split_named,
    split_word,
    with_validation,
)
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

LISTS = ("csv", "tsv", "json", "txt", "xls", "xlsx", "ods", "mat", "pkl", "npy", "yaml", "xml")  # may hold labels
READING = 5  # raise it when the same files make another table


def table_name(path: Path) -> str:
    """The folder's name and a hash of its place and of its files' names, sizes and dates: a changed folder is new."""
    digest = hashlib.sha256(f"{READING}{path.resolve()}".encode(errors="surrogateescape"))
    for file in files_in(path):
        facts = file.stat()
        line = f"\n{file.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}"
        digest.update(line.encode(errors="surrogateescape"))
    return f"folder-{re.sub(r'[^A-Za-z0-9.-]+', '_', path.resolve().name)}-{digest.hexdigest()[:10]}"


def content(path: Path, size: int, channels: int) -> Content:
    """Every image in `path` that has a class: as a csv says, else by its folder. The split is the one of a list, else
    of folders, else seeded. The note says which of these it was.

    Raises:
        UserError: the files can be read in more than one way, or look like a split that is not understood.
    """
    files = members(path)
    images = Finder(files)
    found = listings(files, images)
    labels, lists, folders = readings(path, files, found)
    if labels:
        classes = all_labelled(labels.name, labels.rows[UNSPLIT], images)
        how = f"classes from {labels.columns}{labels.name}"
    else:
        classes, how = class_folders(files), "classes from the names of folders"
    if lists:
        splits = assigned(lists, classes, images)
        where = f"{lists.columns}{lists.name}"
        how = f"{how}, split from {where}" if unlabelled(lists) else f"classes and split from {where}"
        refuse_other_split(path, splits, folders, lists)
    elif folders:
        splits, how = folders, "classes and split from the names of folders"
        refuse_two_sets(path, files)
    else:
        refuse_unknown_split(path, files, classes, labels)
        split_of = seeded(classes)
        splits = {s: {c: of_class for c, of_class in classes.items() if split_of[c] == s} for s in SPLITS}
        how += f", {SEEDED_NOTE}"
    if len(splits["train"]) > 1:
        splits, taken = with_validation(splits)
        how += taken
    used = [image for of_split in splits.values() for of_class in of_split.values() for image in of_class.values()]
    note = f"{how}; {sum(map(len, splits.values()))} classes, {len(used)} images"
    if lacking := [split for split in SPLITS if not splits.get(split)]:
        raise UserError(
            f"{path} needs at least three class folders with images, one for each of train, val and test: there is "
            f"none for {' and '.join(lacking)} ({note}){unread(files, found)}"
        )
    if unused := sum(map(is_image, files)) - len(used):
        note += f"; {unused} images {'that no row lists' if labels or lists else 'in no class'}, or copies, left out"
    return from_members(splits, size, channels, note=note + unread(files, found), apart=True)


def unlabelled(listing: Listing) -> bool:
    return not any(label for rows in listing.rows.values() for _, label in rows)


def readings(
    path: Path, files: Sequence[Member], found: Sequence[Listing]
) -> tuple[Listing | None, Listing | None, Files | None]:
    """The list of labels, the list of a split, and the split by folders, as far as there are some.

    Raises:
        UserError: several lists are, or a list and folders, that say the same thing in different ways.
    """
    folders = by_folders(files)
    labels = [listing for listing in found if UNSPLIT in listing.rows]
    lists = [listing for listing in found if UNSPLIT not in listing.rows]
    ways = [f"{listing.columns}{listing.name}" for listing in [*labels, *lists]]
    if folders and labels:
        ways.append("folders for train, val and test")
    if len(ways) > 1 and not (len(labels) == len(lists) == 1 and unlabelled(lists[0]) and not folders):
        raise UserError(
            f"{path} can be read in more than one way, keep one of them and remove the others: {'; '.join(ways[:6])}"
        )
    return next(iter(labels), None), next(iter(lists), None), folders


def refuse_other_split(path: Path, splits: Files, folders: Files | None, lists: Listing) -> None:
    """UserError where the folders of an image say another split than the list does."""
    listed = {image: split for split, c in splits.items() for of_class in c.values() for image in of_class.values()}
    for split, classes in (folders or {}).items():
        for image in (image for of_class in classes.values() for image in of_class.values()):
            if listed.get(image, split) != split:
                raise UserError(
                    f"{path} can be read in more than one way: {image} is in {listed[image]} by {lists.name} and in "
                    f"{split} by its folder: keep one of them, and remove or rename the other"
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
            for part in {part for image in of_class.values() for part in image.parts[:-1] if split_word(part)[1]}:
                parts.setdefault(part, set()).add(name)
        several = sorted(part for part, names in parts.items() if len(names) > 1)
        likely = several if len({split_word(part)[1] for part in several}) > 1 else []
        likely += [file.name for file in files if not is_image(file) and file not in labels.files and split_like(file)]
    else:
        likely = sorted({like for file in files if (like := split_like(file))})
        own = {name: split for file in filter(is_image, files) if (split := split_named(name := ("", *file.parts)[-2]))}
        likely = likely or (sorted(own) if len(set(own.values())) > 1 else [])
    if likely:
        many = "look like splits" if len(likely) > 1 else "looks like a split"
        beside = f", beside {labels.name}, which has none" if labels else ""
        raise UserError(
            f"{path}: {', '.join(likely[:4])} {many}{beside}, and not like one of these: folders train, val and test "
            f"with class folders in them; {FORMS}. Make it one of them, or remove it"
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
        likely = {"train", "test"} <= words or (likely and len(columns) > 1)
    return file.name if likely else None


def unread(files: Sequence[Member], found: Sequence[Listing]) -> str:
    """The files that could hold labels or a split and were not read as such."""
    used = {file for listing in found for file in listing.files}
    names = [file.name for file in files if file not in used and file.parts[-1].lower().endswith(LISTS)]
    return f"; not read: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""
