"""Anybody's images: a folder of class folders, or of images and csv files."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fewshot.data.archives import Member, files_in, members
from fewshot.data.decode import from_members, is_image
from fewshot.data.splits import SEEDED_NOTE, Files, Images, by_csv, by_folders, find, rows, seeded
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

_NAMES = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "base", "novel")
SPLIT_LIKE = {spelt for name in _NAMES for spelt in (name, name.capitalize(), name.upper())}
READING = 2  # raise it when the same files make another table


def table_name(path: Path) -> str:
    """The folder's name and a hash of its place and of its files' names, sizes and dates: a changed folder is new."""
    digest = hashlib.sha256(f"{READING}{path.resolve()}".encode(errors="surrogateescape"))
    for file in files_in(path):
        facts = file.stat()
        line = f"\n{file.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}"
        digest.update(line.encode(errors="surrogateescape"))
    return f"folder-{re.sub(r'[^A-Za-z0-9.-]+', '_', path.resolve().name)}-{digest.hexdigest()[:10]}"


def content(path: Path, size: int, channels: int) -> Content:
    """Every image in `path`; its split from csv files, else from folders train/val/test, else seeded and stated."""
    files = members(path)
    listed, table = by_csv(files), find(files, "split.csv")
    if listed:
        splits, missing = listed
        note = "split from train.csv, val.csv and test.csv"
        if missing:
            raise UserError(
                f"{path}: {len(missing)} images named in train.csv, val.csv and test.csv are missing, "
                f"the first is {missing[0]}: add them, or remove their lines"
            )
    elif table:
        splits, note = _by_class_csv(files, table, path), "split from split.csv"
    elif folders := by_folders(files):
        splits, note = folders, "split from the folders train, val and test"
    else:
        if likely := sorted({f.parts[-3] for f in filter(is_image, files) if len(f.parts) > 2} & SPLIT_LIKE):
            raise UserError(
                f"{path}: the folders {', '.join(likely)} look like splits: name them train, val and test, each with "
                f"class folders in it, or say each class's split in split.csv (columns class,split)"
            )
        classes = _class_folders(files)
        split_of = seeded(classes)
        splits = {s: {c: images for c, images in classes.items() if split_of[c] == s} for s in SPLITS}
        note = SEEDED_NOTE
    if not all(splits.get(split) for split in SPLITS):
        raise UserError(f"{path} needs at least three class folders with images, one for each of train, val and test")
    unused = sum(map(is_image, files)) - sum(len(images) for c in splits.values() for images in c.values())
    if unused:
        note += f"; {unused} images in no class, or there twice, left out"
    return from_members(splits, size, channels, note=note, apart=True)


def _class_folders(files: Sequence[Member]) -> dict[str, Images]:
    """Images by the path of their folder, so that a/1 and b/1 are two classes."""
    classes: dict[str, Images] = {}
    for file in filter(is_image, files):
        if len(file.parts) > 1:
            classes.setdefault(str(PurePosixPath(file.name).parent), {}).setdefault(file.parts[-1], file)
    return classes


def _by_class_csv(files: Sequence[Member], table: Member, path: Path) -> Files:
    """Columns class, split: a class is a folder's path or, where that says enough, its last name."""
    folders = _class_folders(files)
    short: dict[str, list[str]] = {}
    for folder in folders:
        short.setdefault(folder.rpartition("/")[2], []).append(folder)
    splits: Files = {split: {} for split in SPLITS}
    for name, split in rows(table, "class", "split"):
        found = [name] if name in folders else short.get(name, [])
        if split not in SPLITS or len(found) != 1:
            raise UserError(
                f"{table}: class {name!r} in split {split!r}: {len(found)} folders with images in {path} "
                f"have that name (one is needed), and a split is train, val or test"
            )
        splits[split][name] = folders[found[0]]
    return splits
