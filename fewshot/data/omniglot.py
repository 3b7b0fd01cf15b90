"""Omniglot (Lake et al. 2015): 1623 characters of 20 drawings, split as by Vinyals et al. (2016)."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fewshot.data.archives import Member, NotFound
from fewshot.data.decode import from_members
from fewshot.data.splits import Files, Images
from fewshot.data.table import Content
from fewshot.episodes import SPLITS

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20

# Vinyals' 1028/172/423 characters: five alphabets of the background set validate, and in the evaluation set, in
# alphabetical order, everything from the 42nd character of Gurmukhi on tests.
VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
FIRST_TEST = ("Gurmukhi", "character42")


def split_of(part: str, alphabet: str, character: str) -> str:
    """The split of e.g. "images_background", "Greek", "character01"."""
    if part == "images_background":
        return "val" if alphabet in VALIDATION else "train"
    return "test" if (alphabet, character) >= FIRST_TEST else "train"


def content(files: Sequence[Member], folder: Path, size: int, channels: int) -> Content:
    """Ink is 255 on a ground of 0. `folder` is where an error says to put the files."""
    drawings: dict[tuple[str, str, str], Images] = {}
    for file in files:
        *_, part, alphabet, character, name = ("", "", "", *file.parts)
        if part in CHARACTERS and re.fullmatch(r"character\d\d", character) and name.endswith(".png"):
            drawings.setdefault((part, alphabet, character), {}).setdefault(name, file)
    whole = Counter(part for (part, _, _), images in drawings.items() if len(images) == DRAWINGS)
    for part, characters in CHARACTERS.items():
        if whole[part] != characters:
            raise NotFound(
                f"Omniglot: {whole[part]} of {characters} characters with {DRAWINGS} drawings found for {part}: "
                f"put a complete {part}.zip into {folder}"
            )
    splits: Files = {split: {} for split in SPLITS}
    for key, images in drawings.items():
        splits[split_of(*key)]["/".join(key)] = images
    return from_members(splits, size, channels, invert=True)
