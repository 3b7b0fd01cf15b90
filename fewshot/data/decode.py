"""From members of archives to the rows of a table: decode, resize, check."""

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import combinations, islice
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fewshot.data.archives import Member, read
from fewshot.data.table import Content
from fewshot.errors import UserError, out_of_memory

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")  # PIL knows many more, rarely used and rarely tested
THREADS = min(8, os.cpu_count() or 1)
LARGE_PIXELS = 4 * 10**6  # larger images are decoded one at a time, whatever the number of threads
ONE_LARGE = Lock()
BATCH_BYTES = 32 * 2**20  # of files that wait for being decoded
MAX_PIXELS = 64 * 10**6  # a small file can claim a huge image; none of ours is near
warnings.filterwarnings("ignore", module="PIL")  # of torn notes beside an image; a torn image is an error


def is_image(member: Member) -> bool:
    return is_image_name(member.name)


def is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def from_members(
    splits: Mapping[str, Mapping[str, Mapping[str, Member]]],
    size: int,
    channels: int,
    invert: bool = False,
    note: str = "",
    apart: bool = False,
) -> Content:
    """The Content of image files, `splits[split][class][file name]`, each sorted; decoded when the table is written.

    Raises:
        UserError: two splits share a class, or an image is listed twice; where `apart`, when the table is written,
            also where files of two splits hold the same bytes.
    """
    refuse_shared({split: {name: next(iter(c[name].values())) for name in c} for split, c in splits.items()})
    counts = {
        split: {name: len(classes[name]) for name in sorted(classes)} for split, classes in splits.items()
    }
    wanted = [
        c[name][file] for split, c in splits.items() for name in counts[split] for file in sorted(c[name])
    ]
    if twice := [member for member, times in Counter(wanted).items() if times > 1]:
        raise UserError(f"{twice[0]} is listed under two classes: leave it in one")
    split_of = [split for split, c in splits.items() for images in c.values() for _ in images]
    stored = read(wanted)
    if apart:
        stored = _apart(stored, wanted, split_of)
    return Content(counts, _decode_all(stored, wanted, size, channels, invert), note)


def refuse_shared(splits: Mapping[str, Mapping[str, Member]]) -> None:
    """UserError where two splits share a class; `splits[split][class]` is a file of it."""
    for (one, classes), (other, others) in combinations(splits.items(), 2):
        if shared := sorted(classes.keys() & others.keys()):
            raise UserError(
                f"class {shared[0]} ({classes[shared[0]]}) is in {one} and in {other}, as {len(shared)} classes are, "
                f"and a test needs classes never seen before: give each class to one split, or none to any for "
                f"64/16/20%"
            )


def _apart(
    stored: Iterable[tuple[int, bytes]], wanted: Sequence[Member], split_of: Sequence[str]
) -> Iterator[tuple[int, bytes]]:
    seen: dict[bytes, int] = {}
    for row, data in stored:
        first = seen.setdefault(hashlib.sha256(data).digest(), row)
        if split_of[first] != split_of[row]:
            one, other = sorted((first, row))
            raise UserError(
                f"{wanted[one]} in {split_of[one]} and {wanted[other]} in {split_of[other]} are the same image: "
                f"leave it in one split, or the test shows what was trained on"
            )
        yield row, data


def _decode_all(
    stored: Iterator[tuple[int, bytes]], wanted: Sequence[Member], size: int, channels: int, invert: bool
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    def decode_one(item: tuple[int, bytes]) -> tuple[int, NDArray[np.uint8]]:
        row, data = item
        pixels = decode(data, size, channels, str(wanted[row]))
        return row, 255 - pixels if invert else pixels

    with ThreadPoolExecutor(THREADS) as pool:  # PIL decodes and resizes outside the interpreter lock
        while batch := list(some(stored)):  # `map` alone would first read everything
            yield from pool.map(decode_one, batch)


def some(stored: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The next few files, up to BATCH_BYTES and one file more: a small archive can hold huge ones."""
    size = 0
    for row, data in islice(stored, 256):
        yield row, data
        size += len(data)
        if size > BATCH_BYTES:
            return


def decode(data: bytes, size: int, channels: int, name: str) -> NDArray[np.uint8]:
    """An image file's bytes as uint8 (size, size, channels), squashed by PIL's (antialiased) bilinear filter.

    Of several pictures or pages the first, turned as its EXIF says, on white where it is transparent.

    Raises:
        UserError: no readable image, too many pixels, or more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name} has {image.width} x {image.height} pixels: shrink or remove it")
            wide = image.format in ("PNG", "TIFF") and ";16" in str(
                image.tile
            )  # PIL would cut them to 8 bits
            if wide or image.mode.startswith(("I", "F")):
                raise UserError(f"{name} has more than 8 bits a channel: convert it to 8 bits")
            with ONE_LARGE if image.width * image.height > LARGE_PIXELS else nullcontext():
                return resize(
                    ImageOps.exif_transpose(image), size, channels
                )  # photographs, as they were taken
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} is no readable image ({', '.join(FORMATS)}): replace or remove it"
        ) from error
    except Exception as error:  # a damaged file can fail in any way
        if out_of_memory(error):
            raise
        raise UserError(f"{name} is no readable image ({error}): replace or remove it") from error


def resize(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """An 8-bit image as uint8 (size, size, channels)."""
    if image.has_transparency_data:  # what lies below transparent pixels is nothing that anybody saw
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(size, size, channels)
