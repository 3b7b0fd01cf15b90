"""Splits by the names of folders, or by a seed."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from fewshot.data.archives import Member
from fewshot.data.decode import is_image
from fewshot.episodes import SPLITS

Images = dict[str, Member]  # by file name, in the order of the table
Files = dict[str, dict[str, Images]]  # by split and class

WORDS = {
    "train": {"train", "training", "base", "background"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "novel", "evaluation"},
}
ALSO = {"split", "splits", "partition", "partitions", "seen", "unseen", "learn", "eval", "holdout"}
LISTED = re.compile(
    r"(classes|class|lists?|sets?|splits?|images?|files?|names?|ids?)$"
)  # as in trainclasses.txt
SEEDED_NOTE = "classes split 64/16/20% in the order of sha256('0/' + class name)"


def split_named(name: str) -> str | None:
    """The split that a word means, as the field has it: in any case, singular or plural, with meta- before it."""
    word = re.sub(r"[^a-z]", "", name.lower()).removeprefix("meta")
    return next((split for split, words in WORDS.items() if {word, word.removesuffix("s")} & words), None)


def split_word(name: str) -> tuple[str, str | None]:
    """The first word of a name that means a split, and which: of train_v2, "train" and "train"."""
    for word in re.findall("[A-Za-z]+", name):
        if split := split_named(word) or split_named(LISTED.sub("", word.lower())):
            return word, split
    return "", None


def speaks_of_splits(name: str) -> bool:
    return split_word(name)[1] is not None or bool(ALSO & {*re.findall("[a-z]+", name.lower())})


def by_folders(files: Iterable[Member]) -> Files | None:
    """Class folders in folders that are named as splits; None where there are none to train on, or to test on.

    A single folder train in a folder train is no class.
    """
    splits: Files = {split: {} for split in SPLITS}
    for file in filter(is_image, files):
        if len(file.parts) >= 3 and (split := split_named(file.parts[-3])):
            splits[split].setdefault(file.parts[-2], {}).setdefault(file.parts[-1], file)
    nested = any(len(classes) == 1 and split_named(*classes) == split for split, classes in splits.items())
    return splits if splits["train"] and splits["test"] and not nested else None


def class_folders(files: Sequence[Member]) -> dict[str, Images]:
    """Images by the path of their folder, so that a/1 and b/1 are two classes."""
    classes: dict[str, Images] = {}
    for file in filter(is_image, files):
        if len(file.parts) > 1:
            classes.setdefault(str(PurePosixPath(file.name).parent), {}).setdefault(file.parts[-1], file)
    return classes


def with_validation(splits: Files) -> tuple[Files, str]:
    """The splits, and what was done where none is for validation: a fifth of the training classes is taken for it."""
    if splits["val"]:
        return splits, ""
    order = by_hash(splits["train"])
    held = set(order[: max(1, round(0.2 * len(order)))])
    train = {name: images for name, images in splits["train"].items() if name not in held}
    val = {name: images for name, images in splits["train"].items() if name in held}
    return {
        "train": train,
        "val": val,
        "test": splits["test"],
    }, f", {len(val)} of its training classes for validation"


def seeded(names: Iterable[str], seed: int = 0) -> dict[str, str]:
    """Class name -> split, 64/16/20% of them. By a hash: the same on every machine and with every library."""
    order = by_hash(names, seed)
    train, val = round(0.64 * len(order)), round(0.8 * len(order))
    return {name: SPLITS[(i >= train) + (i >= val)] for i, name in enumerate(order)}


def by_hash(names: Iterable[str], seed: int = 0) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def find(files: Iterable[Member], name: str) -> Member | None:
    """The first file of that name, in any folder or archive."""
    return next((file for file in files if file.parts[-1] == name), None)
