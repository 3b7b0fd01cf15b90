"""A prepared data set: a folder with `images.npy` (uint8) and `index.json` (which rows are which class)."""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.files import atomic_open, atomic_write

THREADS = min(8, os.cpu_count() or 1)
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")  # PIL knows more, some of which run programs


class Example(NamedTuple):
    """An image of a class; `split` is "" as long as it is not known."""

    split: str
    label: str
    name: str  # a relative path; the images of a class are sorted by file name
    load: Callable[[], bytes | NDArray[np.uint8]]  # its file, or 8-bit pixels


class Content(NamedTuple):
    """What a data set's table is made from: its images, and what a user should know of them."""

    examples: list[Example]
    note: str = ""
    invert: bool = False  # once the images have their size


class Classes(NamedTuple):
    """The classes of one split: class i is rows starts[i] ... starts[i] + counts[i] - 1 of the table."""

    names: tuple[str, ...]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


class Table(NamedTuple):
    """An open table: `images` uint8 (n, H, W, C), mapped from disk; `splits` by "train", "val" and "test"."""

    images: NDArray[np.uint8]
    splits: dict[str, Classes]
    note: str  # what was left out and how the split came about; "" if there is nothing to say


def open_table(folder: Path) -> Table:
    """Open a prepared folder; UserError if it is incomplete."""
    splits, start = {}, 0
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        # "c", copy on write, is as safe as "r" for the file, and torch.from_numpy warns about "r"
        images = np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is incomplete ({error}): delete it, and run again") from error
    for split in SPLITS:
        names, numbers = zip(*index["splits"][split], strict=True)
        counts = np.array(numbers, dtype=np.int64)
        splits[split] = Classes(names, start + np.cumsum(counts) - counts, counts)
        start += counts.sum()
    return Table(images, splits, index["note"])


def open_or_write(folder: Path, size: int, channels: int, read: Callable[[], Content]) -> Table:
    """Open `folder`; first write what `read` returns if it is not there. A second process waits meanwhile."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                write_table(folder, size, channels, read())
    return open_table(folder)


def write_table(folder: Path, size: int, channels: int, content: Content) -> None:
    """Write the new `folder`, all or nothing; UserError where two splits share a class."""
    rows = sorted(content.examples, key=lambda e: (SPLITS.index(e.split), e.label, Path(e.name).name, e.name))
    counts = {split: Counter(row.label for row in rows if row.split == split) for split in SPLITS}
    for label, splits in Counter(chain(*counts.values())).items():
        if splits > 1:
            raise UserError(f"class {label} is in {splits} splits: give it to one")
    index = {"splits": {s: list(classes.items()) for s, classes in counts.items()}, "note": content.note}
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size, channels)}
    images, title = decoded(rows, size, channels), f"preparing {folder.name}"
    part = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(part, ignore_errors=True)  # what a killed process left there
    try:
        part.mkdir()
        with atomic_open(part / "images.npy", "wb") as out:  # a memory map would crash on a full disk
            np.lib.format.write_array_header_1_0(out, header)
            for pixels in track(images, title, len(rows), console=Console(stderr=True)):
                out.write((255 - pixels if content.invert else pixels).tobytes())
        atomic_write(part / "index.json", json.dumps(index))
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def decoded(rows: Sequence[Example], size: int, channels: int) -> Iterator[NDArray[np.uint8]]:
    """The pixels of each row, in threads: PIL decodes and resizes outside the interpreter lock."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(rows), 64):  # a few at a time, since photographs are large
            some = rows[start : start + 64]
            data, names = [row.load() for row in some], [row.name for row in some]
            yield from pool.map(partial(decode, size=size, channels=channels), data, names)


def decode(data: bytes | NDArray[np.uint8], name: str, size: int, channels: int) -> NDArray[np.uint8]:
    """A file or pixels as uint8 (size, size, channels), by PIL's (antialiased) bilinear filter.

    Raises:
        UserError: the file is unreadable, or has over 8 bits a channel.
    """
    image = opened(data, name) if isinstance(data, bytes) else Image.fromarray(data)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)


def opened(data: bytes, name: str) -> Image.Image:
    try:
        file = Image.open(io.BytesIO(data), formats=FORMATS)
        wide = file.format in ("PNG", "TIFF") and ";16" in str(file.tile)  # PIL would cut it to 8 bits
        image = ImageOps.exif_transpose(file)
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{name} is no readable image ({', '.join(FORMATS)})") from error
    if wide or image.mode.startswith(("I", "F")):
        raise UserError(f"{name} has more than 8 bits a channel: convert it to 8 bits")
    return image
