"""A prepared data set: one folder with `images.npy` (uint8) and `index.json` (which rows are which class)."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.files import atomic_open, atomic_write


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

    `counts[split][class]` are numbers of images, in table order; `images` yields (row, (H, W, C) uint8) for
    every row once, in any order, since archives are read fastest in their own.
    """

    counts: dict[str, dict[str, int]]
    images: Iterable[tuple[int, NDArray[np.uint8]]]
    note: str = ""


def open_table(folder: Path) -> Table:
    """Open a prepared folder.

    Raises:
        UserError: it is incomplete.
    """
    splits, start = {}, 0
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        # "c", copy on write, is as safe as "r" for the file, and torch.from_numpy warns about "r"
        images = np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False)
        for split in SPLITS:
            names, numbers = zip(*index["splits"][split], strict=True)
            counts = np.array(numbers, dtype=np.int64)
            splits[split] = Classes(names, start + np.cumsum(counts) - counts, counts)
            start += sum(numbers)
        if start != len(images):
            raise ValueError(f"{len(images)} images, not {start}")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is incomplete ({error}): delete it, and run again") from error
    return Table(images, splits, index["note"])


def open_or_write(folder: Path, shape: tuple[int, int, int], make: Callable[[], Content]) -> Table:
    """Open `folder`; write it from `make()` first if it is not there. A second process waits meanwhile."""
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
    return open_table(folder)


def write_table(folder: Path, shape: tuple[int, int, int], content: Content) -> None:
    """Write images of one (H, W, C) `shape` into the new `folder`, all or nothing.

    Raises:
        OSError: the folder cannot be written, or its disk is full.
    """
    missing = set(range(sum(sum(classes.values()) for classes in content.counts.values())))
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(missing), *shape)}
    progress = track(
        content.images, f"preparing {folder.name}", total=len(missing), console=Console(stderr=True)
    )
    partial = folder.with_name(f".{folder.name}.partial")  # what a killed process left there is overwritten
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        with atomic_open(partial / "images.npy", "wb") as out:  # a memory map would crash on a full disk
            np.lib.format.write_array_header_1_0(out, header)
            start = out.tell()
            for row, image in progress:
                if image.shape != shape or image.dtype != np.uint8:
                    raise ValueError(f"row {row} is {image.dtype} {image.shape}, not uint8 {shape}")
                missing.remove(row)
                out.seek(start + row * image.size)
                out.write(np.ascontiguousarray(image).data)
        if missing:
            raise ValueError(f"{len(missing)} images were never read")
        splits = {split: list(content.counts[split].items()) for split in SPLITS}
        atomic_write(partial / "index.json", json.dumps({"splits": splits, "note": content.note}))
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
