"""A user's own images: class folders, or images and lists of their labels.

Three rules: there is one source of labels and at most one of a split; what looks like a split and is not
read as one is an error; the note says what was read, and which lists were not.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from fewshot.data.archives import File, is_image_name, list_files, walk
from fewshot.data.decode import Example, from_examples
from fewshot.data.lists import FORMS, LABEL, Finder, Listing, Row, cells, named, read_lists
from fewshot.data.splits import SEEDED_NOTE, seeded, split_folders, split_in, split_named, with_validation
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

READING = 5  # raise it when the same files make another table
LISTS = (".csv", ".tsv", ".json", ".txt", ".mat", ".pkl", ".npy", ".yaml", ".xml")  # what may hold labels
SHEETS = (".xls", ".xlsx", ".ods")  # what probably does


def table_name(path: Path) -> str:
    """The folder's name, and a hash of its place and of its files' names, sizes and dates."""
    digest = hashlib.sha256(f"{READING}{path.resolve()}".encode(errors="surrogateescape"))
    for file in walk(path):
        facts = file.stat()
        line = f"\n{file.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}"
        digest.update(line.encode(errors="surrogateescape"))
    return f"folder-{re.sub(r'[^A-Za-z0-9.-]+', '_', path.resolve().name)}-{digest.hexdigest()[:10]}"


def content(path: Path, size: int, channels: int) -> Content:
    """Every image in `path` that has a class, with a note of where classes and split are from.

    Raises:
        UserError: the files can be read in more than one way, or look like a split that is not understood.
    """
    files = list_files(path)
    all_images = [file for file in files if is_image_name(file.name)]
    images = list({file.name: file for file in reversed(all_images)}.values())[::-1]  # the first of a name
    candidates = [file for file in files if file.name.lower().endswith((*LISTS, *SHEETS))]
    lists, folders = read_lists(candidates), split_folders(images)
    labels = [listing for listing in lists if listing.rows[0].image]
    splits = [listing for listing in lists if listing.rows[0].split]
    if len(labels) > 1 or len(splits) > 1 or (labels and not splits and folders):
        ways = "; ".join(map(str, lists)) + "; split folders" * bool(folders)
        raise UserError(f"{path} can be read in more than one way, keep one: {ways}")
    read = [file for listing in lists for file in listing.files]
    unread = [file for file in candidates if file not in read]

    if labels:
        examples = Finder(images).examples(labels[0])
    else:
        in_folders = [file for file in images if len(file.parts) > 1]
        examples = [Example("", "/".join(file.parts[:-1]), file) for file in in_folders]
    suspects = [file.name for file in unread if file.name.lower().endswith(SHEETS) or is_split_like(file)]
    if splits:
        split_from = f"split from {splits[0]}"
        examples = examples if splits == labels else chosen(splits[0], examples)
        refuse_other_split(path, splits[0], examples, folders)
    elif folders:
        split_from = "split from the names of folders"
        examples = folders
    else:
        split_from = SEEDED_NOTE
        suspects += split_like_folders(path, examples, bool(labels))
        split_of = seeded({example.label for example in examples})
        examples = [example._replace(split=split_of[example.label]) for example in examples]
    if suspects:
        raise UserError(
            f"{path}: cannot read {', '.join(suspects[:4])} as labels or a split: these are {FORMS}. "
            f"Make it one of these, remove or rename it"
        )
    refuse_near_names(path, sorted({example.label for example in examples}))

    if not any(example.split == "val" for example in examples):
        split_from += ", a fifth of the training classes for validation"
        examples = with_validation(examples)
    classes = Counter(split for split, _ in {(example.split, example.label) for example in examples})
    used = len({example.file for example in examples})
    note = (
        f"classes from {labels[0] if labels else 'the names of folders'}; {split_from}; "
        f"{classes.total()} classes, {used} of {len(all_images)} images"
    )
    if unread:
        note += f"; not read: {', '.join(file.name for file in unread[:5])}" + ", …" * (len(unread) > 5)
    if len(classes) < len(SPLITS):
        raise UserError(f"{path} needs a class or more for each of train, val and test: {note}")
    return from_examples(examples, size, channels, note=note)


def chosen(listing: Listing, examples: Sequence[Example]) -> list[Example]:
    """The examples of the classes or images that a list names, with their splits."""
    label_of = {example.file: example.label for example in examples}
    classes: dict[str, list[File]] = defaultdict(list)
    for file, label in label_of.items():
        classes[label].append(file)
    found, images = [], []
    for _, name, split in listing.rows:
        ends = [name] if name in classes else [label for label in classes if label.endswith(f"/{name}")]
        if is_image_name(name) and not ends:
            images.append(Row(name, "", split))
        elif len(ends) == 1:
            found += [Example(split, name, file) for file in classes[ends[0]]]
        else:
            raise UserError(
                f"{listing} lists {name}, which matches {len(ends)} class folders: correct or remove it"
            )
    for example in Finder(label_of).examples(Listing(listing.files, images)):
        found.append(example._replace(label=label_of[example.file]))
    return found


def refuse_other_split(
    path: Path, listing: Listing, examples: Sequence[Example], folders: Sequence[Example]
) -> None:
    """UserError where the split folder of an image says another split than the list does."""
    split_of = {example.file: example.split for example in examples}
    for split, _, file in folders:
        if split_of.get(file, split) != split:
            raise UserError(
                f"{path} can be read in more than one way, keep one: {file} is in {split_of[file]} by "
                f"{listing} and in {split} by its folder"
            )


def split_like_folders(path: Path, examples: Sequence[Example], labelled: bool) -> list[str]:
    """Folders and archives of examples named like splits: any above class folders, or several."""
    root = unicodedata.normalize("NFC", Path(os.path.abspath(path)).as_posix())
    above, several = dict[str, str](), dict[str, str]()
    for example in examples:
        *folders, folder, _ = ("", *example.file.path.removeprefix(root).split("/"))
        above |= {name: word for name in folders if (word := split_in(name))}
        if word := split_in(folder) if labelled else split_named(folder):  # a class may well be a test tube
            several[folder] = word
    several |= above
    if len(set(several.values())) > 1:
        return sorted(several)
    return [] if labelled else sorted(above)


def is_split_like(file: File) -> bool:
    """Whether a list is named like a split; not the test.csv without labels of a competition."""
    name = PurePosixPath(file.name)
    split = split_in(name.stem)
    unlabelled = split == "test" and name.suffix.lower() == ".csv" and not named(cells(file)[0], LABEL)
    return bool(split) and not unlabelled and "submission" not in name.stem.lower()


def refuse_near_names(path: Path, names: Iterable[str]) -> None:
    """UserError where two classes differ only in case or blanks."""
    seen: dict[str, str] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        if (other := seen.setdefault(plain, name)) != name:
            raise UserError(
                f"{path}: classes {other!r} and {name!r} differ only in case or blanks: rename one"
            )
