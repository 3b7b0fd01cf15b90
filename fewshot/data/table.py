"""A prepared data set: one folder with `images.npy` (uint8) and `index.json` (which rows are which class)."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.files import atomic_open, atomic_write

FORMAT = 1  # raise it, and that of Index, when the files' meaning changes: older tables are then refused


@dataclass(frozen=True)
class Classes:
    """The classes of one split: class i is rows starts[i] ... starts[i] + counts[i] - 1 of the table."""

    names: tuple[str, ...]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """An open table: `images` uint8 (n, H, W, C), mapped from disk; `splits` by "train", "val" and "test"."""

    images: NDArray[np.uint8]
    splits: dict[str, Classes]
    note: str  # what was left out and how the split came about; "" if there is nothing to say


@dataclass(frozen=True)
class Content:
    """What a table is written from.

    `counts[split][class]` are numbers of images, in table order; `images` yields (row, (H, W, C) uint8) for every row
    once, in any order, since archives are read fastest in their own.
    """

    counts: dict[str, dict[str, int]]
    images: Iterable[tuple[int, NDArray[np.uint8]]]
    note: str = ""


class Index(BaseModel, strict=True):
    """What `index.json` holds."""

    format: Literal[1]
    name: str
    shape: list[int]
    bytes: int
    splits: dict[str, Annotated[list[tuple[str, Annotated[int, Field(ge=1)]]], Field(min_length=1)]]
    note: str


def open_table(folder: Path) -> Table:
    """Open a prepared folder after checking its header, type, shape, size and index.

    Raises:
        UserError: anything but a complete table is there.
    """
    try:
        return _open_checked(folder)
    except (OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{folder} is no complete prepared data set ({reason}): delete it, and run again"
        ) from error


def _open_checked(folder: Path) -> Table:
    index = Index.model_validate_json((folder / "index.json").read_bytes())
    file = folder / "images.npy"
    if index.name != folder.name:
        raise ValueError(f"index.json is of {index.name}")
    if file.stat().st_size != index.bytes:
        raise ValueError(f"images.npy has {file.stat().st_size} bytes, not {index.bytes}")
    # "c", copy on write, is as safe as "r" for the file, and torch.from_numpy warns about "r"
    images = np.load(file, mmap_mode="c", allow_pickle=False)
    if images.dtype != np.uint8 or list(images.shape) != index.shape or not images.flags.c_contiguous:
        raise ValueError(f"images.npy is {images.dtype} {images.shape}, not uint8 {index.shape}")
    told = [entry for split in SPLITS for entry in index.splits[split]]
    if (listed := sum(count for _, count in told)) != len(images):
        raise ValueError(f"index.json lists {listed} images, images.npy holds {len(images)}")
    if twice := [name for name, times in Counter(name for name, _ in told).items() if times > 1]:
        raise ValueError(f"index.json lists class {twice[0]} twice")
    splits, start = {}, 0
    for split in SPLITS:
        names, numbers = zip(*index.splits[split], strict=True)
        counts = np.array(numbers, dtype=np.int64)
        splits[split] = Classes(names, start + np.cumsum(counts) - counts, counts)
        start += sum(numbers)
    return Table(images, splits, index.note)


def open_or_write(folder: Path, shape: tuple[int, int, int], make: Callable[[], Content]) -> Table:
    """Open `folder`; write it from `make()` first if it is not there. Two processes at once: the second one waits."""
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f".{folder.name}.lock")):
                if not folder.exists():
                    write_table(folder, shape, make())
    except OSError as error:
        raise UserError(
            f"cannot prepare {folder}: {error}; free space there, or choose another folder"
        ) from error
    table = open_table(folder)
    if table.images.shape[1:] != shape:
        raise UserError(
            f"{folder} holds images of {table.images.shape[1:]}, not of {shape}: delete it, and run again"
        )
    return table


def write_table(folder: Path, shape: tuple[int, int, int], content: Content) -> None:
    """Write images of one (H, W, C) `shape` into the new `folder`, all or nothing.

    Raises:
        UserError: too little free space.
        OSError: the folder cannot be written.
    """
    rows = sum(sum(classes.values()) for classes in content.counts.values())
    need, free = rows * int(np.prod(shape)), shutil.disk_usage(folder.parent).free
    if free < 1.01 * need + 2**20:
        raise UserError(
            f"{folder.parent} has {free / 1e6:.0f} MB free, {folder.name} needs {need / 1e6:.0f} MB there"
        )
    partial = folder.with_name(f".{folder.name}.partial")  # what a killed process left there is overwritten
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        size = _write_images(partial / "images.npy", (rows, *shape), content.images, folder.name)
        splits = {split: list(content.counts[split].items()) for split in SPLITS}
        index = {
            "format": FORMAT,
            "name": folder.name,
            "shape": (rows, *shape),
            "bytes": size,
            "splits": splits,
        }
        atomic_write(partial / "index.json", json.dumps(index | {"note": content.note}, ensure_ascii=False))
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_images(
    file: Path, shape: tuple[int, ...], images: Iterable[tuple[int, NDArray[np.uint8]]], name: str
) -> int:
    """Write a .npy file row by row; its size in bytes."""
    columns = (
        TextColumn("preparing {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    written = np.zeros(shape[0], dtype=bool)
    # plain writes, not a memory map: on a full disk they raise OSError where a map would kill the process
    with atomic_open(file, "wb") as out, Progress(*columns, console=Console(stderr=True)) as progress:
        np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start = out.tell()
        for row, image in progress.track(images, total=shape[0], description=name):
            if image.shape != shape[1:] or image.dtype != np.uint8 or written[row]:
                raise RuntimeError(
                    f"row {row} of {name}: {image.dtype} {image.shape}, not one uint8 {shape[1:]}"
                )
            written[row] = True
            out.seek(start + row * image.size)
            out.write(np.ascontiguousarray(image).data)
        if not written.all():
            raise RuntimeError(f"{name}: {np.count_nonzero(~written)} images were never read")
    return file.stat().st_size
