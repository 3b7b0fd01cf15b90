"""From members of archives to the rows of a table: decode, resize, check."""

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot.data.archives import Member, read
from fewshot.data.table import Content
from fewshot.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")  # PIL knows many more, rarely used and rarely tested
MAX_PIXELS = 64 * 10**6  # a small file can claim a huge image; none of ours is near


def is_image(member: Member) -> bool:
    return member.name.lower().endswith(SUFFIXES)


def from_members(
    splits: Mapping[str, Mapping[str, Mapping[str, Member]]],
    size: int,
    channels: int,
    invert: bool = False,
    note: str = "",
) -> Content:
    """The Content of image files, `splits[split][class][file name]`, each sorted; decoded when the table is written."""
    counts = {split: {name: len(classes[name]) for name in sorted(classes)} for split, classes in splits.items()}
    wanted = [c[name][file] for split, c in splits.items() for name in counts[split] for file in sorted(c[name])]
    return Content(counts, _decode_all(wanted, size, channels, invert), note)


def _decode_all(
    wanted: Sequence[Member], size: int, channels: int, invert: bool
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    def decode_one(item: tuple[int, bytes]) -> tuple[int, NDArray[np.uint8]]:
        row, data = item
        pixels = decode(data, size, channels, str(wanted[row]))
        return row, 255 - pixels if invert else pixels

    stored = read(wanted)
    with ThreadPoolExecutor() as pool:  # PIL decodes and resizes outside the interpreter lock
        while batch := list(islice(stored, 256)):  # `map` alone would first read everything
            yield from pool.map(decode_one, batch)


def decode(data: bytes, size: int, channels: int, name: str) -> NDArray[np.uint8]:
    """An image file's bytes as uint8 (size, size, channels), squashed by PIL's (antialiased) bilinear filter.

    Raises:
        UserError: no readable image, too many pixels, or more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name} has {image.width} x {image.height} pixels: shrink or remove it")
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{name} has more than 8 bits a channel: convert it to 8 bits")
            return resize(image, size, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name} is no readable image ({error}): replace or remove it") from error


def resize(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """An 8-bit image as uint8 (size, size, channels)."""
    if "transparency" in image.info:
        image = image.convert("RGBA")  # what PIL itself asks for, in a warning
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)
