"""Anybody's images: a folder of class folders, or of images and csv files."""

import hashlib
import re
from pathlib import Path

from fewshot.data.archives import Member, files_in, members
from fewshot.data.decode import from_members, is_image
from fewshot.data.listed import FORMS, by_list
from fewshot.data.splits import (
    SEEDED_NOTE,
    by_csv,
    by_folders,
    class_folders,
    seeded,
    split_named,
    text_of,
    with_validation,
)
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

ALSO = {"split", "splits", "partition", "partitions", "seen", "unseen", "learn", "eval", "holdout"}
READING = 4  # raise it when the same files make another table


def table_name(path: Path) -> str:
    """The folder's name and a hash of its place and of its files' names, sizes and dates: a changed folder is new."""
    digest = hashlib.sha256(f"{READING}{path.resolve()}".encode(errors="surrogateescape"))
    for file in files_in(path):
        facts = file.stat()
        line = f"\n{file.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}"
        digest.update(line.encode(errors="surrogateescape"))
    return f"folder-{re.sub(r'[^A-Za-z0-9.-]+', '_', path.resolve().name)}-{digest.hexdigest()[:10]}"


def content(path: Path, size: int, channels: int) -> Content:
    """Every image in `path`; its split as a file lists it, else as folders are named, else seeded and stated.

    Raises:
        UserError: something that looks like a split is there and is none of these: no class may be mixed up with one
            that it is held out for.
    """
    files = members(path)
    listed = by_csv(files)
    if listed:
        splits, missing = listed
        note = "split from train.csv, val.csv and test.csv"
        if missing:
            raise UserError(
                f"{path}: {len(missing)} images named in train.csv, val.csv and test.csv are missing, "
                f"the first is {missing[0]}: add them, or remove their lines"
            )
    elif told := by_list(files):
        splits, note = told[0], f"split from {told[1]}"
    elif folders := by_folders(files):
        splits, note = folders, "split from the folders for training, validation and test"
    else:
        likely = sorted({part for file in files if (part := split_like(file))})
        own = {name: split for file in filter(is_image, files) if (split := split_named(name := ("", *file.parts)[-2]))}
        if likely := likely or (sorted(own) if len(set(own.values())) > 1 else []):
            many = "look like splits" if len(likely) > 1 else "looks like a split"
            raise UserError(
                f"{path}: {', '.join(likely[:4])} {many}, and not like one of these: folders train, val and test with "
                f"class folders in them; {FORMS}. Make it one of them, or take it away"
            )
        classes = class_folders(files)
        split_of = seeded(classes)
        splits = {s: {c: images for c, images in classes.items() if split_of[c] == s} for s in SPLITS}
        note = SEEDED_NOTE
    if len(splits["train"]) > 1:
        splits, how = with_validation(splits)
        note += how
    if lacking := [split for split in SPLITS if not splits.get(split)]:
        raise UserError(
            f"{path} needs at least three class folders with images, one for each of train, val and test: there is "
            f"none for {' and '.join(lacking)} ({note})"
        )
    unused = sum(map(is_image, files)) - sum(len(images) for c in splits.values() for images in c.values())
    if unused:
        note += f"; {unused} images in no class, or there twice, left out"
    return from_members(splits, size, channels, note=note, apart=True)


def split_like(file: Member) -> str | None:
    """What of a file's place, name or cells looks like a split: a folder above images, or a list."""
    stem, _, suffix = file.parts[-1].lower().rpartition(".")
    if is_image(file):
        return next((part for part in file.parts[:-2] if speaks_of_splits(part)), None)
    if suffix not in ("csv", "json", "txt", "tsv", "mat", "pkl", "npy", "yaml"):
        return None
    told = speaks_of_splits(stem)
    if not told and suffix in ("csv", "tsv"):
        cells = {split_named(cell) for cell in re.split(r"[,;\t\n]", text_of(file))}
        told = {"train", "test"} <= cells
    return file.name if told else None


def speaks_of_splits(name: str) -> bool:
    words = re.findall("[a-z]+", name.lower())
    return any(split_named(word) or word in ALSO for word in words)
