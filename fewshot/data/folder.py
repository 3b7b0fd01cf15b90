"""Images in class folders or listed in csv files, also inside zips and tars, which are read in place.

What can be read in two ways is an error.
"""

import glob
import hashlib
import io
import posixpath
import re
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pandas as pd

from fewshot.data.table import Example
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

VERSION = 6  # raise it when the same files make another table
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
HIDDEN_OR_FOLDER = r"(^|/)\.|/$"  # in an archive
SPLIT_FOLDER = re.compile(r"((?:.*/)?)(train|val|test)/(.+)/[^/]+")
SEEDED_NOTE = "classes split 64/16/20% in the order of sha256('0/' + class name)"
Files = dict[str, Callable[[], bytes]]  # relative path -> what reads the file


def full_name(name: str, path: Path | None) -> str:
    """The data set's name; of a folder its own, and a hash of its place and files."""
    if name not in ("folder", "arrays"):
        return name
    if path is None or not path.exists():
        what = "an .npz file" if name == "arrays" else "a folder of class folders"
        raise UserError(f"data={name}: {path} does not exist: give {what} as its path")
    files = [(inner, file.stat()) for inner, file in files_below(path).items()]
    facts = [f"{VERSION}{path.resolve()}", *(f"{inner} {f.st_size} {f.st_mtime_ns}" for inner, f in files)]
    digest = hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()[:10]
    return f"{name}-{re.sub(r'[^A-Za-z0-9.-]+', '_', path.resolve().name)}-{digest}"


def files_below(root: Path) -> dict[str, Path]:
    """The files below `root` by their relative paths, without hidden ones; `root` itself if it is a file."""
    if root.is_file():
        return {root.name: root}
    names = sorted(glob.glob("**", root_dir=root, recursive=True))
    return {name: root / name for name in names if (root / name).is_file()}


def files_in(root: Path) -> Files:
    """All files below `root` and in archives there, by their paths; UserError for two files of one path."""
    found: Files = {}
    for name, path in files_below(root).items():
        inside: Files = {name: path.read_bytes}
        if name.endswith((".zip", *TARS)):
            archive = opened(path)
            names = [name for name in archive.namelist() if not re.search(HIDDEN_OR_FOLDER, name)]
            inside = {name: partial(archive.read, name) for name in names}
        for inner, read in inside.items():
            if inner in found and found[inner]() != read():
                raise UserError(f"{inner} is there twice with different content, once in {name}: keep one")
        found |= inside
    return found


def opened(path: Path) -> zipfile.ZipFile:
    """An archive; a tar as an uncompressed zip, for in a compressed tar it takes long to find a file."""
    try:
        if path.name.endswith(".zip"):
            return zipfile.ZipFile(path)
        copy = zipfile.ZipFile(tempfile.TemporaryFile(), "w")  # noqa: SIM115 (open as long as it is read)
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)):
                    copy.writestr(posixpath.normpath(member.name), file.read())
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"cannot read {path.name}: {error}") from error
    return copy


def read(files: Files) -> tuple[list[Example], str]:
    """Every image that has a class, and how classes and split were read; UserError for two ways or none."""
    return with_splits(*labelled(files))


def with_splits(examples: list[Example], note: str) -> tuple[list[Example], str]:
    """Examples each in a split, by a fixed seed where none is given; the note says how."""
    if not any(example.split for example in examples):
        note += f"; {SEEDED_NOTE}"
        split_of = seeded(example.label for example in examples)
        examples = [example._replace(split=split_of[example.label]) for example in examples]
    if not any(example.split == "val" for example in examples):
        note += "; a fifth of the training classes for validation"
        train = by_hash(example.label for example in examples if example.split == "train")
        moved = {("train", label) for label in train[: round(0.2 * len(train)) or 1]}
        examples = [e._replace(split="val") if e[:2] in moved else e for e in examples]
    if {example.split for example in examples} != set(SPLITS):
        raise UserError(f"train, val and test each need a class or more, and are the only splits: {note}")
    return examples, note


def labelled(files: Files) -> tuple[list[Example], str]:
    """Every image that has a class, with its split where one is given, and a note of what that is from."""
    images = {name: load for name, load in files.items() if name.lower().endswith(IMAGES)}
    lists = {name: load for name, load in files.items() if name.lower().endswith(".csv")}
    if lists and any(SPLIT_FOLDER.fullmatch(name) for name in images):
        raise UserError(f"{', '.join(lists)} and folders train, val and test give two splits: keep one")
    examples = from_lists(lists, images) if lists else from_folders(images)
    source = ", ".join(lists) or "the names of folders"
    return examples, f"{len(examples)} of {len(images)} images, with classes and any split from {source}"


def from_folders(images: Files) -> list[Example]:
    """Images in class folders, which may be in folders train, val and test; a class is named by its path."""
    examples, first = [], dict[str | None, str]()
    for name, load in images.items():
        match = SPLIT_FOLDER.fullmatch(name)
        above, split, label = match.groups() if match else (None, "", name.rpartition("/")[0])
        if label:
            examples.append(Example(split, label, name, load))
            first.setdefault(above, name)
    if len(first) > 1:
        raise UserError(f"{' and '.join(first.values())} are in and beside folders train, val and test")
    return examples


def from_lists(lists: Files, images: Files) -> list[Example]:
    """Images listed in one csv, or in train.csv, val.csv and test.csv, by a unique end of their path."""
    source, tables = ", ".join(lists), []
    try:
        for name, load in lists.items():
            table = pd.read_csv(io.BytesIO(load()), dtype=str, keep_default_na=False)
            if len(lists) > 1 or "split" not in table:
                table.insert(0, "split", Path(name).stem if len(lists) > 1 else "")
            tables.append(table)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    rows = pd.concat(tables)
    if set(rows) != {"filename", "label", "split"} or not rows["label"].str.len().gt(0).all():
        raise UserError(f"{source}: the columns of a csv file are filename,label or filename,label,split")
    ends = defaultdict(list)
    for name in images:
        ends[Path(name).name].append(name)
    examples: dict[str, Example] = {}
    for listed, label, split in zip(rows["filename"], rows["label"], rows["split"], strict=True):
        found = [name for name in ends[Path(listed).name] if f"/{name}".endswith(f"/{listed}")]
        if len(found) != 1 or found[0] in examples:
            raise UserError(f"{source}: {listed} is listed twice, or names {len(found)} images")
        examples[found[0]] = Example(split, label, found[0], images[found[0]])
    return list(examples.values())


def seeded(labels: Iterable[str]) -> dict[str, str]:
    """Class name -> split, 64/16/20% of them. By a hash: the same on every machine and with every library."""
    order = by_hash(labels)
    train, val = round(0.64 * len(order)), round(0.8 * len(order))
    return {name: SPLITS[(i >= train) + (i >= val)] for i, name in enumerate(order)}


def by_hash(labels: Iterable[str]) -> list[str]:
    return sorted(set(labels), key=lambda name: hashlib.sha256(f"0/{name}".encode()).digest())
