"""Image data sets by name: opened if prepared, else prepared from the files in which they are published."""

import io
import pickle
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from filelock import FileLock

from fewshot.data import folder, glyphs
from fewshot.data.folder import Files, files_in
from fewshot.data.table import Example, Table, open_table, write_table
from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.options import Few


def open_or_prepare(
    name: str,
    raw: Path,
    prepared: Path,
    size: Annotated[Few, "height and width of the images in pixels"],
    channels: Annotated[Literal[1, 3], "1 (grey) or 3 (RGB)"],
    path: Path | None = None,
) -> Table:
    """The table of data set `name`, prepared on first use.

    Args:
        name: "omniglot", "cub", "cub50", "mini", "glyphs" or "folder".
        raw: the files, or archives of them, are in raw/<name>. Downloads go there.
        prepared: where tables are kept, one folder each.
        size, channels: in the paper 84 and 3 for photographs, 28 and 1 for characters.
        path: the folder (or archive) of images, for name "folder".

    Raises:
        UserError: raw files missing or damaged, no space, no connection; says what to put where.
    """
    if name not in (names := [*DOWNLOADS, "mini", "glyphs", "folder"]) or channels not in (1, 3):
        raise UserError(f"no image data {name} with channels={channels}: names are {', '.join(names)}")
    source = f"glyphs-{glyphs.VERSION}" if name == "glyphs" else folder.full_name(name, path)
    table = prepared / f"{source}-{size}-{'grey' if channels == 1 else 'rgb'}"
    if not table.exists():
        prepared.mkdir(parents=True, exist_ok=True)
        with FileLock(prepared / f".{table.name}.lock"):
            if not table.exists():  # another process may have written it meanwhile
                examples, note = read(name, raw, path, size)
                write_table(table, size, channels, examples, note, invert=name == "omniglot")  # ink is 255
    return open_table(table)


def read(name: str, raw: Path, path: Path | None, size: int) -> tuple[list[Example], str]:
    """What the table is made from, and a note on it; UserError says where files are missing or wrong."""
    if name == "glyphs":
        return glyphs.read(size)
    home = path if path and name == "folder" else raw / name
    if name == "cub50" and not home.exists():
        home = raw / "cub"
    try:
        if name == "folder":
            return folder.read(files_in(home))
        examples = read_mini(files_in(home)) if name == "mini" else read_download(DOWNLOADS[name], home)
        return examples, ""
    except UserError as error:
        raise UserError(f"{home}: {error}") from error


def split_of_character(label: str) -> str:
    """1028/172/423 characters (Vinyals et al. 2016): validation has five alphabets of the background set, the
    test all of the evaluation set from the 42nd character of Gurmukhi on."""
    part, alphabet, character = label.split("/")
    if part == "images_evaluation":
        return "test" if (alphabet, character) >= ("Gurmukhi", "character42") else "train"
    validation = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
    return "val" if alphabet in validation else "train"


def split_of_bird(label: str) -> str:
    """Classes 1 ... 200 are train, val, train, test, and so on (Chen et al. 2019)."""
    return ("train", "val", "train", "test")[(int(label[:3]) - 1) % 4]


class Download(NamedTuple):
    """A data set that can be downloaded; the path of an image ends with its class and file name."""

    pattern: str
    images: int
    split_of: Callable[[str], str]  # class -> split
    urls: dict[str, str]  # url -> md5, those of torchvision (Omniglot) and CaltechDATA (CUB)


CHARACTER = r"(images_(?:background|evaluation)/[^/]+/character\d\d)/([^/]+\.png)"
LAKE = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
OMNIGLOT = {
    f"{LAKE}/images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    f"{LAKE}/images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
CALTECH = "https://data.caltech.edu/records/65de6-vp158/files"
CUB = {f"{CALTECH}/CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78"}
DOWNLOADS = {
    "omniglot": Download(CHARACTER, 1623 * 20, split_of_character, OMNIGLOT),
    "cub": Download(r"(\d{3}\.\w+)/([^/]+\.jpg)", 11_788, split_of_bird, CUB),
    "cub50": Download(r"((?:0[0-4]\d|050)\.\w+)/([^/]+\.jpg)", 2_889, split_of_bird, CUB),
}


def read_download(known: Download, home: Path) -> list[Example]:
    """One of DOWNLOADS, from the files in `home`; UserError if they are incomplete, also after a download."""
    for missing in (known.urls, {}):
        files = files_in(home)
        matches = [match for name in files if (match := re.fullmatch(f"(?:.*/)?{known.pattern}", name))]
        found = {m.groups(): Example(known.split_of(m[1]), m[1], m[0], files[m[0]]) for m in matches}
        if len(found) == known.images:
            return list(found.values())
        for url, md5 in missing.items():
            download(url, md5, home)
    raise UserError(f"{len(found)} of {known.images} images found: put {' and '.join(known.urls)} there")


def download(url: str, md5: str, home: Path) -> None:
    """UserError without a connection, where the folder cannot be written, or for a wrong checksum."""
    from torchvision.datasets.utils import download_url  # slow to import

    name = Path(url).name
    try:
        if not (home / name).exists():
            download_url(url, home, f".{name}", md5)
            (home / f".{name}").replace(home / name)
    except (OSError, RuntimeError) as error:  # torchvision raises RuntimeError for a wrong checksum
        raise UserError(f"cannot download ({error}): get {url} and put it there") from error


MINI = {"train": 64, "val": 16, "test": 20}  # classes
MINI_FILES = "train.csv, val.csv, test.csv and images/*.jpg, or the mini-imagenet-cache-*.pkl"
PICKLE = r"(?:.*/)?mini-imagenet-cache-(train|val|test)\.pkl"
ARRAYS = ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer")  # what numpy's pickles call


def read_mini(files: Files) -> list[Example]:
    """miniImageNet, Ravi and Larochelle's split (2017), from MINI_FILES or class folders; or UserError."""
    pickles = [name for name in files if re.fullmatch(PICKLE, name)]
    examples = [example for name in pickles for example in unpickled(name, files[name]())]
    if not pickles:
        examples, _ = folder.labelled(files)
    found = {split: len({e.label for e in examples if e.split == split}) for split in SPLITS}
    if found != MINI:
        raise UserError(f"{found} classes, not {MINI}: put {MINI_FILES} there")
    return examples


def unpickled(name: str, data: bytes) -> Iterator[Example]:
    """The images of a pickle; UserError if it is damaged, or holds anything but numpy arrays."""
    try:
        read = ArraysOnly(io.BytesIO(data), encoding="latin1").load()  # most were written by Python 2
        for label, rows in read["class_dict"].items():
            for position, row in enumerate(rows):
                load = partial(read["image_data"].__getitem__, row)
                yield Example(Path(name).stem.rpartition("-")[2], label, f"{position:06}", load)
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{name} is no usable pickle of miniImageNet: {error}") from error


class ArraysOnly(pickle.Unpickler):
    """An unpickler that knows numpy arrays and nothing else, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # of protocol 2's bytes; the original can also unpack
            return lambda text, _: text.encode("latin-1")
        if re.fullmatch(r"numpy(\._?core\.(multiarray|numeric))?", module) and name in ARRAYS:
            return super().find_class(module, name)
        raise ValueError(f"it wants to run {module}.{name}, which no array needs")
