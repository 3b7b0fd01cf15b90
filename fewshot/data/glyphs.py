"""Characters rendered from the fonts that matplotlib ships: image classes without any download."""

import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.cluster.hierarchy import DisjointSet

from fewshot.data.splits import SEEDED_NOTE, seeded
from fewshot.data.table import Content
from fewshot.episodes import SPLITS

MIN_FACES = 10  # fewer distinct faces make too few examples of a class
DRAWN_AT = 64  # font size in pixels, before the glyph is scaled to the image
LETTERS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
# LastResort draws boxes for everything; cmex and cmsy put brackets and arrows where letters belong
SKIPPED = ("LastResort", "cmex", "cmsy")

Faces = dict[str, bytes]  # face -> a character in it, (size, size) pixels, packed: large ones would fill the memory


def content(size: int, channels: int) -> Content:
    """One class a character, one image a distinct face, ink 255."""
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))
    cover = {font: _characters(font) for font in fonts if not font.name.startswith(SKIPPED)}
    held = Counter(character for characters in cover.values() for character in characters)
    enough = {character for character, faces in held.items() if faces >= MIN_FACES}
    drawn: dict[str, Faces] = {character: {} for character in sorted(enough)}
    for font, characters in cover.items():
        face = ImageFont.truetype(str(font), DRAWN_AT, layout_engine=ImageFont.Layout.BASIC)
        for character in sorted(characters & enough):
            if (picture := _draw(face, character, size)) is not None:
                drawn[character][font.stem] = zlib.compress(picture.tobytes(), 1)
    classes, merged, left_out = {}, 0, 0
    for alike in _look_alikes(drawn):
        pictures = _distinct(drawn[character] for character in alike)
        merged += len(alike) - 1
        if len(pictures) >= MIN_FACES:
            classes[f"U+{ord(alike[0]):04X} {alike[0]}"] = pictures
        else:
            left_out += 1
    split_of = seeded(classes)
    splits = {split: sorted(name for name in classes if split_of[name] == split) for split in SPLITS}
    counts = {split: {name: len(classes[name]) for name in names} for split, names in splits.items()}
    in_order = (picture for names in splits.values() for name in names for picture in classes[name])
    images = ((row, _unpacked(picture, size, channels)) for row, picture in enumerate(in_order))
    note = f"{SEEDED_NOTE}; {left_out} characters with fewer than {MIN_FACES} distinct faces left out, {merged} merged"
    return Content(counts, images, f"{note} with look-alikes")


def _characters(font: Path) -> set[str]:
    """The letters, numerals, marks of punctuation and symbols that a font holds, without superscripts and the like."""
    characters = {chr(code) for code in FT2Font(str(font)).get_charmap()}
    if font.name.startswith("cm"):
        return characters & LETTERS  # elsewhere these fonts follow TeX's encoding, not Unicode
    drawable = {character for character in characters if unicodedata.category(character)[0] in "LNPS"}
    return {character for character in drawable if not unicodedata.decomposition(character).startswith("<")}


def _draw(face: ImageFont.FreeTypeFont, character: str, size: int) -> NDArray[np.uint8] | None:
    """The character in the middle, or None if it has no ink.

    A face has one scale, since x and X at their own would be one shape; what is too tall or wide is shrunk to fit.
    """
    left, top, right, bottom = map(round, face.getbbox(character))
    glyph = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(glyph).text((1 - left, 1 - top), character, fill=255, font=face)
    if (ink := glyph.getbbox()) is None:
        return None
    glyph = glyph.crop(ink)
    scale = min(size / DRAWN_AT, (size - 2 * (size // 14)) / max(glyph.size))
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    canvas = Image.new("L", (size, size))
    glyph = glyph.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(glyph, ((size - width) // 2, (size - height) // 2))
    return np.asarray(canvas)


def _look_alikes(drawn: dict[str, Faces]) -> list[list[str]]:
    """Characters grouped: two are one class if any face draws them alike (Latin A, Greek Alpha, Cyrillic A)."""
    groups, first = DisjointSet(drawn), dict[tuple[str, bytes], str]()
    for character, faces in drawn.items():
        for face, picture in faces.items():
            groups.merge(first.setdefault((face, picture), character), character)
    return [sorted(alike) for alike in groups.subsets()]


def _distinct(members: Iterable[Faces]) -> list[bytes]:
    """One image a face, from the first character that has it, each image once, in the order of the faces' names."""
    faces: Faces = {}
    for member in members:
        faces = member | faces
    return list(dict.fromkeys(faces[face] for face in sorted(faces)))


def _unpacked(picture: bytes, size: int, channels: int) -> NDArray[np.uint8]:
    grey = np.frombuffer(zlib.decompress(picture), dtype=np.uint8).reshape(size, size, 1)
    return np.repeat(grey, channels, axis=2)
