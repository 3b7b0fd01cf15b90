"""Characters rendered from the fonts that matplotlib ships: image classes without any download.

Typefaces of one character are nearly the same, and comparing pixels would tell most characters apart. So each
picture is distorted, about as hands differ, by a fixed draw: a function of the character and the face alone.
"""

import hashlib
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
from fewshot.episodes import SPLITS, random_bits, uniform

READING = 2  # raise it when the same fonts make other images
MIN_FACES = 10  # fewer distinct faces make too few examples of a class
HANDS = 2  # distorted pictures of a face: ten faces make 20 images, enough for 5 shots and 15 queries
TURN, SLANT, STRETCH = np.deg2rad(15), 0.15, 1.15  # at most, either way: angle, shear, factor of each side
DRAWN_AT = 64  # font size in pixels, before the glyph is scaled to the image
LETTERS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
# LastResort draws boxes for everything; cmex and cmsy put brackets and arrows where letters belong
SKIPPED = ("LastResort", "cmex", "cmsy")

Faces = dict[str, bytes]  # face -> a character in it, (size, size) pixels, compressed to save memory


def content(size: int, channels: int) -> Content:
    """One class a character, HANDS images a distinct face, ink 255."""
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
    classes: dict[str, Faces] = {}
    merged, left_out = 0, 0
    for alike in _look_alikes(drawn):
        pictures = _distinct(drawn[character] for character in alike)
        merged += len(alike) - 1
        if len(pictures) >= MIN_FACES:
            classes[f"U+{ord(alike[0]):04X} {alike[0]}"] = pictures
        else:
            left_out += 1
    split_of = seeded(classes)
    splits = {split: sorted(name for name in classes if split_of[name] == split) for split in SPLITS}
    counts = {split: {name: HANDS * len(classes[name]) for name in names} for split, names in splits.items()}
    faces = ((name, *face) for names in splits.values() for name in names for face in classes[name].items())
    hands = ((picture, f"{name} {face} {hand}") for name, face, picture in faces for hand in range(HANDS))
    images = ((row, _distorted(picture, key, size, channels)) for row, (picture, key) in enumerate(hands))
    note = f"{left_out} characters with fewer than {MIN_FACES} distinct faces left out"
    return Content(counts, images, f"{SEEDED_NOTE}; {note}, {merged} merged with look-alikes")


def _characters(font: Path) -> set[str]:
    """The letters, numerals, punctuation and symbols that a font holds, without superscripts and the like."""
    characters = {chr(code) for code in FT2Font(str(font)).get_charmap()}
    if font.name.startswith("cm"):
        return characters & LETTERS  # elsewhere these fonts follow TeX's encoding, not Unicode
    drawable = {character for character in characters if unicodedata.category(character)[0] in "LNPS"}
    return {character for character in drawable if not unicodedata.decomposition(character).startswith("<")}


def _draw(face: ImageFont.FreeTypeFont, character: str, size: int) -> NDArray[np.uint8] | None:
    """The character in the middle, or None if it has no ink.

    A face has one scale, since x and X would else be one shape; too tall or wide a glyph is reduced to fit.
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
    """Characters in groups: two are one class if any face draws them alike (Latin A, Greek Alpha)."""
    groups, first = DisjointSet(drawn), dict[tuple[str, bytes], str]()
    for character, faces in drawn.items():
        for face, picture in faces.items():
            groups.merge(first.setdefault((face, picture), character), character)
    return [sorted(alike) for alike in groups.subsets()]


def _distinct(members: Iterable[Faces]) -> Faces:
    """One picture a face, from the first character that has it, each once, sorted by face."""
    faces: Faces = {}
    for member in members:
        faces = member | faces
    first: dict[bytes, str] = {}
    for face in sorted(faces):
        first.setdefault(faces[face], face)
    return {face: picture for picture, face in first.items()}


def _distorted(picture: bytes, key: str, size: int, channels: int) -> NDArray[np.uint8]:
    """The picture turned, slanted, stretched and moved by what `key` draws; no ink is cut."""
    stream = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u8")[:1]
    turn, slant, wide, high, *moves = uniform(random_bits(stream, np.arange(6, dtype=np.uint64)), -1.0, 1.0)
    cos, sin = np.cos(TURN * turn), np.sin(TURN * turn)
    # PIL asks where a pixel comes from: from the middle of a larger canvas to the middle of the picture
    back = np.diag([STRETCH**wide, STRETCH**high]) @ [[1, SLANT * slant], [0, 1]] @ [[cos, sin], [-sin, cos]]
    origin = np.column_stack([back, size / 2 - back @ [size, size]]).ravel().tolist()
    plain = Image.frombytes("L", (size, size), zlib.decompress(picture))
    ink = plain.transform((2 * size, 2 * size), Image.Transform.AFFINE, origin, Image.Resampling.BICUBIC)
    ink = ink.crop(ink.getbbox())
    margin = size // 14
    ink.thumbnail((size - 2 * margin, size - 2 * margin))
    canvas = Image.new("L", (size, size))
    corner = [(size - side) // 2 + round(margin * move) for side, move in zip(ink.size, moves, strict=True)]
    canvas.paste(ink, (corner[0], corner[1]))
    return np.repeat(np.asarray(canvas)[:, :, None], channels, axis=2)
