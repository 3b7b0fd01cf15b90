"""Splits by the names of folders, or by a seed."""

import hashlib
import re
from collections.abc import Iterable

from fewshot.data.archives import File
from fewshot.data.decode import Example
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

NAMES = {
    "train": {"train", "training", "base", "background"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "novel", "evaluation"},
}
OTHER_WORDS = {"split", "splits", "partition", "partitions", "seen", "unseen", "learn", "eval", "holdout"}
ENDINGS = "(classes|class|lists?|sets?|splits?|images?|files?|names?|ids?)$"  # as in trainclasses
SEEDED_NOTE = "classes split 64/16/20% in the order of sha256('0/' + class name)"


def split_named(name: str) -> str | None:
    """The split that a name means: in any case, singular or plural, with meta- before it."""
    word = re.sub(r"[^a-z]", "", name.lower()).removeprefix("meta")
    return next((split for split, words in NAMES.items() if {word, word.removesuffix("s")} & words), None)


def split_in(name: str) -> str | None:
    """The split, or another word for splits, that is part of a name: "train" of train_v2."""
    for word in re.findall("[a-z]+", name.lower()):
        if split := split_named(word) or split_named(re.sub(ENDINGS, "", word)):
            return split
        if word in OTHER_WORDS:
            return word
    return None


def split_folders(images: Iterable[File]) -> list[Example]:
    """Images in class folders in split folders; none without several classes to train on and one to test.

    Raises:
        UserError: a split has two folders that are not copies.
    """
    found, folders = dict[tuple[str, str, str], Example](), dict[str, str]()
    for file in images:
        *above, split, label, name = ("", "", *file.parts)
        if named := split_named(split):
            first = found.setdefault((named, label, name), Example(named, label, file)).file
            folder = "/".join([*above, split]).strip("/")
            other = folders.setdefault(named, folder)
            if other != folder and (first is file or first.read() != file.read()):  # no copy
                raise UserError(f"{file}: {named} classes are in the folders {other} and {folder}: keep one")
    classes = {(split, label) for split, label, _ in found}
    several = sum(split == "train" for split, _ in classes) > 1
    return list(found.values()) if several and any(split == "test" for split, _ in classes) else []


def with_validation(examples: list[Example]) -> list[Example]:
    """A fifth of the training classes, if there are several, is moved to validation."""
    train = by_hash({example.label for example in examples if example.split == "train"})
    moved = train[: max(1, round(0.2 * len(train)))] if len(train) > 1 else []
    return [
        example._replace(split="val") if example.split == "train" and example.label in moved else example
        for example in examples
    ]


def seeded(names: Iterable[str], seed: int = 0) -> dict[str, str]:
    """Class name -> split, 64/16/20% of them. By a hash: the same on every machine and with every library."""
    order = by_hash(names, seed)
    train, val = round(0.64 * len(order)), round(0.8 * len(order))
    return {name: SPLITS[(i >= train) + (i >= val)] for i, name in enumerate(order)}


def by_hash(names: Iterable[str], seed: int = 0) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
