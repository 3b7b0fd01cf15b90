"""miniImageNet (Vinyals et al. 2016) in Ravi and Larochelle's split (2017), from any of the three forms people hold."""

import codecs
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot.data.archives import Member, NotFound, opened
from fewshot.data.decode import from_members, refuse_shared, resize
from fewshot.data.listed import by_csv
from fewshot.data.splits import by_folders, find
from fewshot.data.table import Content
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

CLASSES = {"train": 64, "val": 16, "test": 20}


def content(files: Sequence[Member], folder: Path, size: int, channels: int) -> Content:
    """The csv files with their images, or class folders per split, or the three pickles: the first that is complete.

    `folder` is where an error says to put the files.
    """
    listed, folders = by_csv(files), by_folders(files)
    pickles = [file for split in SPLITS if (file := find(files, f"mini-imagenet-cache-{split}.pkl"))]
    if listed and not listed[1]:
        made = from_members(listed[0], size, channels)
    elif folders:
        made = from_members(folders, size, channels)
    elif len(pickles) == len(SPLITS):
        made = _from_pickles(pickles, size, channels)
    elif listed:
        missing = listed[1]
        raise NotFound(
            f"miniImageNet: {len(missing)} images of the csv files are missing, the first is {missing[0]}: "
            f"put it at {folder / 'images' / missing[0]}, or into any zip in {folder}"
        )
    else:
        raise NotFound(
            f"miniImageNet: put train.csv, val.csv, test.csv and images/*.jpg (or a zip of them), or folders "
            f"train, val, test of class folders, or mini-imagenet-cache-train/val/test.pkl into {folder}"
        )
    found = {split: len(classes) for split, classes in made.counts.items()}
    if found != CLASSES:
        raise UserError(
            f"miniImageNet in {folder} has {found} classes, not {CLASSES}: put a complete copy there"
        )
    return made


def _from_pickles(pickles: Sequence[Member], size: int, channels: int) -> Content:
    """One pickle at a time, and only its class lists kept: the three together would fill 1.3 GB of memory."""
    classes = [dict(sorted(load_pickle(file)[1].items())) for file in pickles]
    refuse_shared({s: dict.fromkeys(c, file) for s, c, file in zip(SPLITS, classes, pickles, strict=True)})

    def images() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        row = 0
        for file, lists in zip(pickles, classes, strict=True):
            pixels, _ = load_pickle(file)
            for number in (number for numbers in lists.values() for number in numbers):
                yield row, resize(Image.fromarray(pixels[number]), size, channels)
                row += 1
            del pixels  # before the next

    counts = {s: {n: len(numbers) for n, numbers in c.items()} for s, c in zip(SPLITS, classes, strict=True)}
    return Content(counts, images())


def load_pickle(file: Member) -> tuple[NDArray[np.uint8], dict[str, list[int]]]:
    """A cache pickle's images, uint8 (n, H, W, 3), and the row numbers of its classes.

    Raises:
        UserError: it asks for anything but numpy arrays, or holds something else.
    """
    try:
        with opened(file) as stream:
            data = _ArraysOnly(stream, encoding="latin1").load()  # latin1: most were written by Python 2
        pixels = data["image_data"]
        classes = {
            str(name): [int(number) for number in numbers] for name, numbers in data["class_dict"].items()
        }
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(f"image_data is {pixels.dtype} {pixels.shape}")
        if any(not 0 <= number < len(pixels) for numbers in classes.values() for number in numbers):
            raise ValueError("class_dict names rows that image_data does not have")
        if len(rows := [number for numbers in classes.values() for number in numbers]) > len({*rows}):
            raise ValueError("class_dict names a row twice")
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{file} is no usable miniImageNet pickle ({reason}): replace it by a complete copy"
        ) from error
    return pixels, classes


def _encode(text: str, _: str) -> bytes:
    """How protocol 2 spells bytes. Never codecs.encode itself, which can also unpack compressed data."""
    return codecs.latin_1_encode(text)[0]


# numpy's own helpers, taken from what numpy writes; they moved from numpy.core to numpy._core
_HELPERS: dict[str, Any] = {
    "multiarray._reconstruct": np.empty(0).__reduce__()[0],
    "multiarray.scalar": np.int64(0).__reduce__()[0],
    "numeric._frombuffer": np.empty(1).__reduce_ex__(5)[0],
}
_ALLOWED = {f"numpy.{core}.{name}": helper for core in ("core", "_core") for name, helper in _HELPERS.items()}
_ALLOWED |= {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype, "_codecs.encode": _encode}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows numpy arrays and nothing else, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise ValueError(f"it wants to run {module}.{name}, which no array needs")
        return _ALLOWED[f"{module}.{name}"]
