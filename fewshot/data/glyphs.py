"""Characters rendered from the fonts that matplotlib ships: image classes without any download.

Typefaces of one character are nearly the same, and comparing pixels would tell most characters apart. So each
picture is distorted, about as hands differ, by a fixed draw: a function of the character and the face alone.
"""

import hashlib
import unicodedata
from collections import ChainMap, Counter
from functools import partial
from itertools import chain, product
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from scipy.cluster.hierarchy import DisjointSet

from fewshot.data.folder import SEEDED_NOTE, seeded
from fewshot.data.table import Example
from fewshot.episodes import random_bits, uniform

VERSION = 2  # raise it when the same fonts make other images
MIN_FACES = 10  # fewer distinct faces make too few examples of a class
HANDS = 2  # distorted pictures of a face: ten faces make 20 images, enough for 5 shots and 15 queries
TURN, SLANT, STRETCH = np.deg2rad(15), 0.15, 1.15  # at most, either way: angle, shear, factor of each side
DRAWN_AT = 64  # font size in pixels, before the glyph is scaled to the image
LETTERS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
# LastResort draws boxes for everything; cmex and cmsy put brackets and arrows where letters belong
SKIPPED = ("LastResort", "cmex", "cmsy")

Faces = dict[str, bytes]  # face -> a character in it, (size, size) pixels


def read(size: int) -> tuple[list[Example], str]:
    """One class a character, HANDS images a distinct face, ink 255; and how they came about."""
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))
    cover = {font: _characters(font) for font in fonts if not font.name.startswith(SKIPPED)}
    held = Counter(chain.from_iterable(cover.values()))
    drawn: dict[str, Faces] = {c: {} for c in sorted(held) if held[c] >= MIN_FACES}
    for font, characters in cover.items():
        loaded = ImageFont.truetype(str(font), DRAWN_AT, layout_engine=ImageFont.Layout.BASIC)
        for character in characters & drawn.keys():
            if picture := _draw(loaded, character, size):
                drawn[character][font.stem] = picture
    groups = _look_alikes(drawn)
    classes, examples = {}, []
    for alike in groups:
        faces = ChainMap(*(drawn[c] for c in alike))  # each from the first character that has it
        distinct = {picture: face for face, picture in sorted(faces.items(), reverse=True)}
        if len(distinct) >= MIN_FACES:
            classes[f"U+{ord(alike[0]):04X} {alike[0]}"] = distinct
    for name, split in seeded(classes).items():
        for (picture, face), hand in product(classes[name].items(), range(HANDS)):
            load = partial(_distorted, picture, f"{name} {face} {hand}", size)
            examples.append(Example(split, name, f"{face} {hand}", load))
    note = f"{len(groups) - len(classes)} characters with fewer than {MIN_FACES} distinct faces left out"
    return examples, f"{SEEDED_NOTE}; {note}, {len(drawn) - len(groups)} merged with look-alikes"


def _characters(font: Path) -> set[str]:
    """The letters, numerals, punctuation and symbols that a font holds, without superscripts and the like."""
    characters = {chr(code) for code in FT2Font(str(font)).get_charmap()}
    if font.name.startswith("cm"):
        return characters & LETTERS  # elsewhere these fonts follow TeX's encoding, not Unicode
    drawable = {c for c in characters if unicodedata.category(c)[0] in "LNPS"}
    return {c for c in drawable if not unicodedata.decomposition(c).startswith("<")}


def _draw(face: ImageFont.FreeTypeFont, character: str, size: int) -> bytes:
    """The character in the middle; b"" if it has no ink.

    A face has one scale, since x and X would else be one shape; too tall or wide a glyph is reduced to fit.
    """
    left, top, right, bottom = map(round, face.getbbox(character))
    glyph = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(glyph).text((1 - left, 1 - top), character, fill=255, font=face)
    if (ink := glyph.getbbox()) is None:
        return b""
    glyph = glyph.crop(ink)
    scale = min(size / DRAWN_AT, (size - 2 * (size // 14)) / max(glyph.size))
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    canvas = Image.new("L", (size, size))
    glyph = glyph.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(glyph, ((size - width) // 2, (size - height) // 2))
    return canvas.tobytes()


def _look_alikes(drawn: dict[str, Faces]) -> list[list[str]]:
    """Characters in groups: two are one class if any face draws them alike (Latin A, Greek Alpha)."""
    groups, first = DisjointSet(drawn), dict[tuple[str, bytes], str]()
    for character, faces in drawn.items():
        for drawing in faces.items():
            groups.merge(first.setdefault(drawing, character), character)
    return [sorted(alike) for alike in groups.subsets()]


def _distorted(picture: bytes, key: str, size: int) -> np.ndarray:
    """The picture turned, slanted, stretched and moved by what `key` draws; no ink is cut."""
    stream = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u8")[:1]
    turn, slant, wide, high, *moves = uniform(random_bits(stream, np.arange(6, dtype=np.uint64)), -1.0, 1.0)
    cos, sin = np.cos(TURN * turn), np.sin(TURN * turn)
    # PIL asks where a pixel comes from: from the middle of a larger canvas to the middle of the picture
    back = np.diag([STRETCH**wide, STRETCH**high]) @ [[1, SLANT * slant], [0, 1]] @ [[cos, sin], [-sin, cos]]
    origin = np.column_stack([back, size / 2 - back @ [size, size]]).ravel().tolist()
    plain = Image.frombytes("L", (size, size), picture)
    ink = plain.transform((2 * size, 2 * size), Image.Transform.AFFINE, origin, Image.Resampling.BICUBIC)
    ink = ink.crop(ink.getbbox())
    margin = size // 14
    ink.thumbnail((size - 2 * margin, size - 2 * margin))
    canvas = Image.new("L", (size, size))
    middle = [(size - side) // 2 for side in ink.size]
    canvas.paste(ink, (middle[0] + round(margin * moves[0]), middle[1] + round(margin * moves[1])))
    return np.asarray(canvas)
