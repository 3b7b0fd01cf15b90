"""The images of a data set, as its reader finds them, and their pixels."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fewshot.errors import UserError

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


def decode(data: bytes | NDArray[np.uint8], name: str, size: int, channels: int) -> NDArray[np.uint8]:
    """A file or pixels as uint8 (size, size, channels); UserError if unreadable or over 8 bits a channel."""
    if not isinstance(data, bytes):
        return resize(Image.fromarray(data), size, channels)
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        wide = opened.format in ("PNG", "TIFF") and ";16" in str(opened.tile)  # PIL would cut it to 8 bits
        image = ImageOps.exif_transpose(opened)
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{name} is no readable image ({', '.join(FORMATS)})") from error
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
