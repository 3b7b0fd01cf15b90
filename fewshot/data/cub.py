"""CUB-200-2011 (Wah et al. 2011): 200 kinds of birds, split as by Chen et al. ("A Closer Look", 2019).

`cub50` is its first 50 classes, a data set of our own for trying things out: results on it are no CUB results.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from fewshot.data.archives import Member, NotFound
from fewshot.data.decode import from_members
from fewshot.data.splits import Files, Images
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

IMAGES = {200: 11_788, 50: 2_889}  # images in the first n classes


def split_of(number: int) -> str:
    """The split of class 1 ... 200: in their order train, val, train, test, and again."""
    return ("train", "val", "train", "test")[(number - 1) % 4]


def content(files: Sequence[Member], folder: Path, size: int, channels: int, classes: int) -> Content:
    """The first `classes` classes (200 or 50), whole images squashed, grey ones made RGB.

    The official layout is known by images/<class>/<file>.jpg alone. `folder` is where an error says to put the files.
    """
    birds: dict[str, Images] = {}
    for file in files:
        *_, bird, name = ("", *file.parts)
        if re.fullmatch(r"\d{3}\.\w+", bird) and name.lower().endswith(".jpg"):
            birds.setdefault(bird, {}).setdefault(name, file)
    chosen = {bird: images for bird, images in birds.items() if 1 <= int(bird[:3]) <= classes}
    if not chosen:
        raise NotFound(f"CUB-200-2011 not found: put CUB_200_2011.tgz, or the folder in it, into {folder}")
    if len(chosen) != classes:
        first = sum(int(bird[:3]) <= 50 for bird in chosen) == 50
        mend = "use data=cub50, or " if first and classes == 200 else ""
        raise UserError(
            f"CUB-200-2011: {len(chosen)} of {classes} classes found: {mend}put a complete copy into {folder}"
        )
    total = sum(map(len, chosen.values()))
    if total != IMAGES[classes]:
        raise UserError(
            f"CUB-200-2011: {total} of {IMAGES[classes]} images found in {classes} classes: "
            f"put a complete CUB_200_2011.tgz into {folder}"
        )
    splits: Files = {split: {} for split in SPLITS}
    for bird, images in chosen.items():
        splits[split_of(int(bird[:3]))][bird] = images
    return from_members(splits, size, channels)
