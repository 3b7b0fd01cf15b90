"""Anybody's images: a folder of class folders, or of images and csv files."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from fewshot.data.ambiguity import (
    refuse_near_names,
    refuse_other_lists,
    refuse_other_split,
    refuse_two_sets,
    refuse_unknown_split,
    same_names,
    unread,
)
from fewshot.data.archives import Member, files_in, members
from fewshot.data.columns import UNSPLIT, Listing
from fewshot.data.decode import from_members, is_image
from fewshot.data.listed import all_labelled, assigned, listings
from fewshot.data.matching import Finder
from fewshot.data.splits import (
    SEEDED_NOTE,
    Files,
    by_folders,
    class_folders,
    seeded,
    with_validation,
)
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

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
        how += same_names(classes)
    if lists:
        splits = assigned(lists, classes, images)
        where = f"{lists.columns}{lists.name}"
        how = f"{how}, split from {where}" if unlabelled(lists) else f"classes and split from {where}"
        refuse_other_split(path, splits, folders, lists)
        refuse_other_lists(path, files, found)
    elif folders:
        splits, how = folders, "classes and split from the names of folders"
        refuse_two_sets(path, files)
        refuse_other_lists(path, files, found)
    else:
        refuse_unknown_split(path, files, classes, labels)
        split_of = seeded(classes)
        splits = {s: {c: of_class for c, of_class in classes.items() if split_of[c] == s} for s in SPLITS}
        how += f", {SEEDED_NOTE}"
    refuse_near_names(path, [name for of_split in splits.values() for name in of_split])
    if len(splits["train"]) > 1:
        splits, taken = with_validation(splits)
        how += taken
    used = [
        image for of_split in splits.values() for of_class in of_split.values() for image in of_class.values()
    ]
    note = f"{how}; {sum(map(len, splits.values()))} classes, {len(used)} images"
    if unused := sum(map(is_image, files)) - len(used):
        note += f"; {unused} images {'that no row lists' if labels or lists else 'in no class'}, or copies, left out"
    if lacking := [split for split in SPLITS if not splits.get(split)]:
        raise UserError(
            f"{path} needs at least three class folders with images, one for each of train, val and test: there is "
            f"none for {' and '.join(lacking)} ({note}){unread(files, found)}"
        )
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
