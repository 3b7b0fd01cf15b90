"""Omniglot, CUB and miniImageNet, from the files in which they are published and in the usual splits."""

import io
import pickle
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fewshot.data.archives import Files, files_in
from fewshot.data.folder import labelled
from fewshot.data.table import Content, Example
from fewshot.episodes import SPLITS
from fewshot.errors import UserError


def split_of_character(label: str) -> str:
    """1028/172/423 characters (Vinyals et al. 2016): five alphabets of the background set are for validation;
    in the evaluation set, in alphabetical order, all from the 42nd character of Gurmukhi on for the test."""
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
    site: str
    files: dict[str, str]  # name -> md5, those of torchvision (Omniglot) and CaltechDATA (CUB)


CHARACTER = r"(images_(?:background|evaluation)/[^/]+/character\d\d)/([^/]+\.png)"
LAKE = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
ZIPS = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
CALTECH = "https://data.caltech.edu/records/65de6-vp158/files"
TGZ = {"CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78"}
DOWNLOADS = {
    "omniglot": Download(CHARACTER, 1623 * 20, split_of_character, LAKE, ZIPS),
    "cub": Download(r"(\d{3}\.\w+)/([^/]+\.jpg)", 11_788, split_of_bird, CALTECH, TGZ),
    "cub50": Download(r"((?:0[0-4]\d|050)\.\w+)/([^/]+\.jpg)", 2_889, split_of_bird, CALTECH, TGZ),
}


def read(name: str, home: Path, may_download: bool) -> Content:
    """One of DOWNLOADS, from the files in `home`; UserError if they are incomplete."""
    known = DOWNLOADS[name]
    found = find(known, files_in(home))
    if len(found) != known.images and may_download:
        for file, md5 in known.files.items():
            download(f"{known.site}/{file}", md5, home)
        found = find(known, files_in(home))
    if len(found) != known.images:
        raise UserError(f"{len(found)} of {known.images} images found: put {' and '.join(known.files)} there")
    return Content(found, invert=name == "omniglot")  # so that ink is 255


def find(known: Download, files: Files) -> list[Example]:
    found: dict[tuple[str, str], Example] = {}
    for name, load in files.items():
        if match := re.fullmatch(f"(?:.*/)?{known.pattern}", name):
            label, file = match.groups()
            found[label, file] = Example(known.split_of(label), label, name, load)
    return list(found.values())


def download(url: str, md5: str, folder: Path) -> None:
    """UserError without a connection, where the folder cannot be written, or for a wrong checksum."""
    from torchvision.datasets.utils import download_url  # slow to import

    name = Path(url).name
    try:
        if not (folder / name).exists():
            download_url(url, folder, f".{name}", md5)
            (folder / f".{name}").replace(folder / name)
    except (OSError, RuntimeError) as error:  # torchvision raises RuntimeError for a wrong checksum
        raise UserError(f"cannot download ({error}): get {url} and put it there") from error


MINI = {"train": 64, "val": 16, "test": 20}  # classes
MINI_FILES = "train.csv, val.csv, test.csv and images/*.jpg, or the mini-imagenet-cache-*.pkl"
PICKLE = r"(?:.*/)?mini-imagenet-cache-(train|val|test)\.pkl"
ARRAYS = ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer")  # what numpy's pickles call


def read_mini(files: Files) -> Content:
    """miniImageNet in the split of Ravi and Larochelle (2017): the well-known pickles, or the three csv files
    with their images, or class folders per split; UserError if they are incomplete."""
    pickles = [name for name in files if re.fullmatch(PICKLE, name)]
    examples = [example for name in pickles for example in unpickled(name, files[name]())]
    if not pickles:
        examples, _ = labelled(files)
    found = {split: len({e.label for e in examples if e.split == split}) for split in SPLITS}
    if found != MINI:
        raise UserError(f"{found} classes, not {MINI}: put {MINI_FILES} there")
    return Content(examples)


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


def latin_1(text: str, _: str) -> bytes:
    """How protocol 2 spells bytes. Never codecs.encode itself, which can also unpack compressed data."""
    return text.encode("latin-1")


class ArraysOnly(pickle.Unpickler):
    """An unpickler that knows numpy arrays and nothing else, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return latin_1
        if re.fullmatch(r"numpy(\._?core\.(multiarray|numeric))?", module) and name in ARRAYS:
            return super().find_class(module, name)
        raise ValueError(f"it wants to run {module}.{name}, which no array needs")
