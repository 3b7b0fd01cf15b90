"""From image files to the rows of a table: decode, resize, check."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fewshot.data.archives import File
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")  # PIL knows more, some of which run programs
THREADS = min(8, os.cpu_count() or 1)
warnings.filterwarnings("ignore", module="PIL")  # an unreadable image is an error, the rest does not matter


class Example(NamedTuple):
    """An image of a class; `split` is "" as long as it is not known."""

    split: str
    label: str
    file: File


def from_examples(
    examples: Iterable[Example], size: int, channels: int, invert: bool = False, note: str = ""
) -> Content:
    """The Content of image files, sorted by split, class and file name; decoded when the table is written.

    Raises:
        UserError: two splits share a class, or an image has two classes.
    """

    def order(example: Example) -> tuple[int, str, str, str]:
        return SPLITS.index(example.split), example.label, example.file.parts[-1], example.file.name

    rows = sorted(set(examples), key=order)
    counts = {split: dict(Counter(row.label for row in rows if row.split == split)) for split in SPLITS}
    refuse_shared_classes(counts)
    files = [example.file for example in rows]
    if len(set(files)) < len(files):
        raise UserError(f"{Counter(files).most_common(1)[0][0]} is listed under two classes: leave it in one")
    return Content(counts, _decode_all(files, size, channels, invert), note)


def refuse_shared_classes(counts: dict[str, dict[str, int]]) -> None:
    times = Counter(label for classes in counts.values() for label in classes)
    if shared := [label for label, number in times.items() if number > 1]:
        splits = " and ".join(split for split in SPLITS if shared[0] in counts[split])
        raise UserError(
            f"class {shared[0]} is in {splits} ({len(shared)} classes are in several): give each to one"
        )


def _decode_all(
    files: Sequence[File], size: int, channels: int, invert: bool
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    def decoded(item: tuple[int, bytes]) -> tuple[int, NDArray[np.uint8]]:
        row, data = item
        pixels = decode(data, size, channels, str(files[row]))
        return row, 255 - pixels if invert else pixels

    order = sorted(range(len(files)), key=lambda row: files[row].position)
    with ThreadPoolExecutor(THREADS) as pool:  # PIL decodes and resizes outside the interpreter lock
        for start in range(0, len(order), 64):  # a few at a time, since photographs are large
            yield from pool.map(decoded, [(row, files[row].read()) for row in order[start : start + 64]])


def decode(data: bytes, size: int, channels: int, name: str) -> NDArray[np.uint8]:
    """An image file's bytes as uint8 (size, size, channels), resized without regard to its aspect ratio.

    Of an animation or of several pages the first, turned as its EXIF data say, on white if transparent.

    Raises:
        UserError: no readable image, or more than 8 bits a channel.
    """
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        wide = opened.format in ("PNG", "TIFF") and ";16" in str(opened.tile)  # PIL would cut them to 8 bits
        image = ImageOps.exif_transpose(opened)
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(
            f"{name} is no readable image ({', '.join(FORMATS)}): replace or remove it"
        ) from error
    if wide or image.mode.startswith(("I", "F")):
        raise UserError(f"{name} has more than 8 bits a channel: convert it to 8 bits")
    return resize(image, size, channels)


def resize(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """An 8-bit image as uint8 (size, size, channels), by PIL's (antialiased) bilinear filter."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)
