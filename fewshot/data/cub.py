"""CUB-200-2011 (Wah et al. 2011): 200 kinds of birds, split as by Chen et al. ("A Closer Look", 2019).

`cub50` is its first 50 classes, for trying things out: results on it are not CUB results.
"""

import re
from pathlib import Path

from fewshot.data.archives import File, NotFound, list_files
from fewshot.data.decode import Example, from_examples
from fewshot.data.table import Content

IMAGES = {200: 11_788, 50: 2_889}  # images in the first n classes


def split_of(number: int) -> str:
    """The split of class 1 ... 200: in their order train, val, train, test, and again."""
    return ("train", "val", "train", "test")[(number - 1) % 4]


def content(raw: Path, size: int, channels: int, classes: int) -> Content:
    """The first `classes` classes (200 or 50), in raw/cub or raw/cub50."""
    birds: dict[tuple[str, str], File] = {}
    for file in [*list_files(raw / "cub"), *list_files(raw / "cub50")]:
        match = re.fullmatch(r"(?:.*/)?((\d{3})\.\w+)/([^/]+\.(?i:jpg))", file.name)
        if match and 1 <= int(match[2]) <= classes:
            birds.setdefault((match[1], match[3]), file)
    if len(birds) != IMAGES[classes]:
        raise NotFound(
            f"CUB-200-2011: {len(birds)} of {IMAGES[classes]} images of its first {classes} classes found: "
            f"put a complete CUB_200_2011.tgz, or the folder in it, into {raw / 'cub'}"
        )
    examples = [Example(split_of(int(bird[:3])), bird, file) for (bird, _), file in birds.items()]
    return from_examples(examples, size, channels)
