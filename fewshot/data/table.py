"""A prepared data set: a folder with `images.npy` (uint8) and `index.json` (which rows are which class)."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.files import atomic_open, atomic_write

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")  # PIL knows more, some of which run programs


class Example(NamedTuple):
    """An image of a class; `split` is "" as long as it is not known."""

    split: str
    label: str
    name: str  # a relative path; the images of a class are sorted by file name
    load: Callable[[], bytes | np.ndarray]  # its file, or 8-bit pixels


class Table(NamedTuple):
    """Examples, class after class: uint8 images (n, H, W, C), mapped from disk, or an array (n, ...)."""

    rows: np.ndarray
    splits: dict[str, dict[str, range]]  # of each split, every class's rows
    note: str  # what was left out and how the split came about; "" if there is nothing to say
    targets: np.ndarray | None = None  # (n, outputs) in regression


def open_table(folder: Path) -> Table:
    """Open a prepared folder."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    # "c", copy on write, is as safe as "r" for the file, and torch.from_numpy warns about "r"
    rows = np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False)
    return Table(rows, ranges(index["splits"]), index["note"])


def ranges(counts: Mapping[str, Iterable[tuple[str, int]]]) -> dict[str, dict[str, range]]:
    """The rows of each class, from every split's classes with their numbers of examples."""
    splits: dict[str, dict[str, range]] = {split: {} for split in SPLITS}
    start = 0
    for split, classes in splits.items():
        for name, count in counts[split]:
            classes[name] = range(start, start + count)
            start += count
    return splits


def in_order(examples: list[Example]) -> tuple[list[Example], dict[str, list[tuple[str, int]]]]:
    """Examples by split, class and file name, and every split's classes with their numbers of examples.

    UserError where two splits share a class.
    """
    rows = sorted(examples, key=lambda e: (SPLITS.index(e.split), e.label, Path(e.name).name, e.name))
    counts = {split: Counter(row.label for row in rows if row.split == split) for split in SPLITS}
    for label, splits in Counter(chain(*counts.values())).items():
        if splits > 1:
            raise UserError(f"class {label} is in {splits} splits: give it to one")
    return rows, {split: list(classes.items()) for split, classes in counts.items()}


def write_table(
    folder: Path, size: int, channels: int, examples: list[Example], note: str = "", invert: bool = False
) -> None:
    """Write the new `folder`, all or nothing; UserError as `in_order`.

    `note` is what a user should know. `invert` makes black white, once the images have their size.
    """
    rows, classes = in_order(examples)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size, channels)}
    chunks = track(range(0, len(rows), 64), f"preparing {folder.name}", console=Console(stderr=True))
    part = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(part, ignore_errors=True)  # what a killed process left there
    try:
        part.mkdir()
        # PIL decodes and resizes outside the interpreter lock; a memory map would crash on a full disk
        with ThreadPoolExecutor() as pool, atomic_open(part / "images.npy", "wb") as out:
            np.lib.format.write_array_header_1_0(out, header)
            for start in chunks:  # a few at a time, since photographs are large
                for pixels in pool.map(partial(decode, size, channels), rows[start : start + 64]):
                    out.write((255 - pixels if invert else pixels).tobytes())
        atomic_write(part / "index.json", json.dumps({"splits": classes, "note": note}))
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def decode(size: int, channels: int, example: Example) -> np.ndarray:
    """An image as uint8 (size, size, channels), by PIL's (antialiased) bilinear filter.

    Raises:
        UserError: the file is unreadable, or has over 8 bits a channel.
    """
    wide = False
    try:
        data = example.load()
        if isinstance(data, bytes):
            file = Image.open(io.BytesIO(data), formats=FORMATS)
            wide = file.format in ("PNG", "TIFF") and ";16" in str(file.tile)  # PIL would cut it to 8 bits
            image = ImageOps.exif_transpose(file)
        else:
            image = Image.fromarray(data)
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{example.name} is no readable image ({', '.join(FORMATS)}): {error}") from error
    if wide or image.mode.startswith(("I", "F")):
        raise UserError(f"{example.name} has more than 8 bits a channel: convert it to 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)
