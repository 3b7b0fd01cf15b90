"""Omniglot (Lake et al. 2015): 1623 characters of 20 drawings, split as by Vinyals et al. (2016)."""

import re
from collections import Counter
from pathlib import Path

from fewshot.data.archives import File, NotFound, list_files
from fewshot.data.decode import Example, from_examples
from fewshot.data.table import Content

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20

# Vinyals' 1028/172/423 characters: five alphabets of the background set are for validation; in the
# evaluation set, in alphabetical order, everything from the 42nd character of Gurmukhi on is for the test.
VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
FIRST_TEST = ("Gurmukhi", "character42")


def split_of(part: str, alphabet: str, character: str) -> str:
    """The split of e.g. "images_background", "Greek", "character01"."""
    if part == "images_background":
        return "val" if alphabet in VALIDATION else "train"
    return "test" if (alphabet, character) >= FIRST_TEST else "train"


def content(raw: Path, size: int, channels: int) -> Content:
    """The drawings in raw/omniglot: ink is 255, the background 0."""
    pattern = re.compile(
        r"(?:.*/)?(images_background|images_evaluation)/([^/]+)/(character\d\d)/([^/]+\.png)"
    )
    drawings: dict[tuple[str, ...], File] = {}
    for file in list_files(raw / "omniglot"):
        if match := pattern.fullmatch(file.name):
            drawings.setdefault(match.groups(), file)
    drawn = Counter(key[:3] for key in drawings)
    complete = Counter(part for (part, *_), number in drawn.items() if number == DRAWINGS)
    for part, characters in CHARACTERS.items():
        if complete[part] != characters:
            raise NotFound(
                f"Omniglot: {complete[part]} of {characters} characters with {DRAWINGS} drawings found for "
                f"{part}: put a complete {part}.zip into {raw / 'omniglot'}"
            )
    examples = [Example(split_of(*key[:3]), "/".join(key[:3]), file) for key, file in drawings.items()]
    return from_examples(examples, size, channels, invert=True)
