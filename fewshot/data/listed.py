"""Labels and splits that files list: csv, JSON or text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fewshot.data.archives import Member
from fewshot.data.columns import UNSPLIT, Listing, Rows, from_csv, text_of
from fewshot.data.decode import is_image_name
from fewshot.data.matching import Finder, slashed
from fewshot.data.splits import Files, Images, find, split_named, split_word
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

FORMS = (
    "a csv with the columns filename,label,split or class,split; train.csv, val.csv and test.csv with the columns "
    "filename,label; split.json as {split: [classes]} or {class: split}; "
    "or train.txt, val.txt and test.txt with a class a line"
)


def listings(files: Sequence[Member], images: Finder) -> list[Listing]:
    """Every list of labels or of a split; train.csv, val.csv and test.csv are one, and so are identical copies."""
    found, sets = [], dict[tuple[str, str], dict[str, Listing]]()
    for file in files:
        suffix = file.parts[-1].lower().rpartition(".")[2]
        word, split = split_word(file.parts[-1].rpartition(".")[0])
        listing = None
        if suffix in ("csv", "tsv") and "submission" not in file.parts[-1].lower():
            listing = from_csv(file, images)
        elif suffix == "json":
            listing = from_json(file)
        elif suffix == "txt" and split:
            lines = [line.strip() for line in text_of(file).splitlines()]
            listing = Listing(str(file), (file,), {UNSPLIT: [(line, None) for line in lines if line]})
        if listing is None:
            continue
        place = str(file).replace(file.parts[-1], file.parts[-1].replace(word, "*", 1)) if split else ""
        of_set = sets.setdefault((place, suffix), {})
        if split and UNSPLIT in listing.rows and split not in of_set:
            of_set[split] = listing
        else:
            found.append(listing)
    for (_, suffix), of_set in sets.items():
        if {"train", "test"} <= of_set.keys():
            found.append(joined(of_set))
        elif suffix != "txt":
            found += of_set.values()
    different: dict[str, Listing] = {}
    for one in found:
        content = repr(([file.parts[-1] for file in one.files], one.rows))
        first = different.setdefault(content, one)
        different[content] = replace(first, files=tuple(dict.fromkeys([*first.files, *one.files])))
    return list(different.values())


def joined(of_set: Mapping[str, Listing]) -> Listing:
    """One listing of a file for each split."""
    of_set = {split: of_set[split] for split in SPLITS if split in of_set}
    first, *others = of_set.values()
    *some, last = [listing.files[0].parts[-1] for listing in others]
    name = f"{', '.join([first.name, *some])} and {last}"
    files = tuple(listing.files[0] for listing in of_set.values())
    rows = {split: listing.rows[UNSPLIT] for split, listing in of_set.items()}
    return Listing(name, files, rows, first.columns)


def from_json(file: Member) -> Listing | None:
    """{split: [classes]} or {class: split}; None for another file."""
    try:
        read = json.loads(text_of(file))
    except (ValueError, RecursionError):
        return None
    if not isinstance(read, dict) or not read:
        return None
    rows: dict[str, Rows] = {}
    if all(split_named(str(key)) and isinstance(names, list) for key, names in read.items()):
        pairs = [(str(name), key) for key, names in read.items() for name in names]
    elif all(isinstance(split, str) and split_named(split) for split in read.values()):
        pairs = list(read.items())
    else:
        return None
    for name, word in pairs:
        rows.setdefault(split_named(word) or "", []).append((name, None))
    return Listing(str(file), (file,), rows)


def by_csv(files: Sequence[Member]) -> tuple[Files, list[str]] | None:
    """Ravi's form: train.csv, val.csv and test.csv with columns filename, label; None where one is not there.

    Returns:
        The files, found in any folder or archive, and the names not found.
    """
    tables = {split: table for split in SPLITS if (table := find(files, f"{split}.csv"))}
    if len(tables) < len(SPLITS):
        return None
    images, splits, missing = Finder(files), Files(), list[str]()
    for split, table in tables.items():
        listing = from_csv(table, images)
        if listing is None or UNSPLIT not in listing.rows:
            raise UserError(f"{table} needs the columns filename,label")
        splits[split], lost = labelled(listing.name, listing.rows[UNSPLIT], images)
        missing += lost
    return splits, missing


def labelled(
    name: str, rows: Rows, images: Finder, class_of: Mapping[Member, str] | None = None
) -> tuple[dict[str, Images], list[str]]:
    """The images of each class that the list `name` gives them, else `class_of`; and the listed names of those that are
    not there."""
    classes, missing = dict[str, Images](), list[str]()
    for (listed, label), image in zip(rows, images.match(name, rows), strict=True):
        if image is None:
            missing.append(slashed(listed))
        elif (own := label or (class_of or {}).get(image)) is None:
            raise UserError(
                f"{name} lists {listed}, whose class is not known: give it one, or remove its line"
            )
        else:
            classes.setdefault(own, {})[f"{image.parts[-1]} {image.name}"] = image
    return classes, missing


def all_labelled(
    name: str, rows: Rows, images: Finder, class_of: Mapping[Member, str] | None = None
) -> dict[str, Images]:
    """The images of each class; UserError where one is not there."""
    classes, missing = labelled(name, rows, images, class_of)
    if missing:
        raise UserError(
            f"{len(missing)} images are missing: {name} lists {missing[0]}, which is not there: add them, or remove "
            f"their rows (a listed path may begin in any folder above the image)"
        )
    return classes


def assigned(listing: Listing, classes: Mapping[str, Images], images: Finder) -> Files:
    """The listed classes of each split: one of `classes` by the end of its path, or the listed images of a class.

    Raises:
        UserError: a class or an image is not there, or a name says too little.
    """
    class_of = {image: name for name, found in classes.items() for image in found.values()}
    splits: Files = {split: {} for split in SPLITS}
    for split, rows in listing.rows.items():
        of_images = [
            (what, label) for what, label in rows if label or (what not in classes and is_image_name(what))
        ]
        splits[split] = all_labelled(listing.name, of_images, images, class_of)
        for what, _ in (row for row in rows if row not in of_images):
            end = f"/{slashed(what)}"
            found = [what] if what in classes else [name for name in classes if f"/{name}".endswith(end)]
            if len(found) != 1:
                raise UserError(
                    f"{listing.name}: {len(found)} folders with images are called {what!r}, and it needs one of each "
                    "name"
                )
            splits[split][what] = classes[found[0]]
    return splits
