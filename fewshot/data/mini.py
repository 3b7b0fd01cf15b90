"""miniImageNet (Vinyals et al. 2016) in the split of Ravi and Larochelle (2017)."""

import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot.data import folder as own
from fewshot.data.archives import File, list_files
from fewshot.data.decode import refuse_shared_classes, resize
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

CLASSES = {"train": 64, "val": 16, "test": 20}
ARRAYS = ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer")  # what numpy's pickles call


def content(raw: Path, size: int, channels: int) -> Content:
    """The three pickles, or Ravi's csv files with their images, or class folders per split, in raw/mini."""
    folder = raw / "mini"
    files = {file.parts[-1]: file for file in list_files(folder)}
    pickles = [files[name] for split in SPLITS if (name := f"mini-imagenet-cache-{split}.pkl") in files]
    try:
        if len(pickles) == len(SPLITS):
            made = from_pickles(dict(zip(SPLITS, pickles, strict=True)), size, channels)
        else:
            made = own.content(folder, size, channels)
        found = {split: len(classes) for split, classes in made.counts.items()}
        if found != CLASSES:
            raise UserError(f"{found} classes, not {CLASSES}")
    except UserError as error:
        raise UserError(
            f"miniImageNet: {error}. Put into {folder}: train.csv, val.csv, test.csv, images/*.jpg (or zips)"
            f" or folders train, val, test of class folders or mini-imagenet-cache-train/val/test.pkl"
        ) from error
    return replace(made, note="")


def from_pickles(pickles: dict[str, File], size: int, channels: int) -> Content:
    """One pickle at a time, and only its class lists kept: together they would fill 1.3 GB of memory."""
    classes = {split: dict(sorted(load_pickle(file)[1].items())) for split, file in pickles.items()}

    def images() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        row = 0
        for split, file in pickles.items():
            pixels, _ = load_pickle(file)
            for numbers in classes[split].values():
                for number in numbers:
                    yield row, resize(Image.fromarray(pixels[number]), size, channels)
                    row += 1
            del pixels  # before the next

    counts = {s: {name: len(numbers) for name, numbers in of.items()} for s, of in classes.items()}
    refuse_shared_classes(counts)
    return Content(counts, images())


def load_pickle(file: File) -> tuple[NDArray[np.uint8], dict[str, list[int]]]:
    """A cache pickle's images, uint8 (n, H, W, 3), and the row numbers of its classes.

    Raises:
        UserError: it is damaged, or holds anything but numpy arrays.
    """
    try:
        with file.open() as stream:
            data = ArraysOnly(stream, encoding="latin1").load()  # most were written by Python 2
        classes = {str(name): list(map(int, numbers)) for name, numbers in data["class_dict"].items()}
        return data["image_data"], classes
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{file} is no usable miniImageNet pickle ({error}): replace it with a complete copy"
        ) from error


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
