"""Small images, zips and tars for the tests of the readers, and what is made of them."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot.data.images import open_or_prepare
from fewshot.data.table import Table
from fewshot.episodes import SPLITS
from fewshot.errors import UserError

FOUR = [  # the split, class and grey value of each image of a small miniImageNet
    *(("train", "n1", 1), ("train", "n1", 2), ("train", "n2", 3), ("train", "n2", 4)),
    *(("val", "n3", 5), ("val", "n3", 6), ("test", "n4", 7), ("test", "n4", 8)),
]


def picture(value: int = 0, side: int = 8, mode: str = "RGB", form: str = "PNG") -> bytes:
    """An image file of one grey value."""
    out = io.BytesIO()
    Image.fromarray(np.full((side, side), value, dtype=np.uint8)).convert(mode).save(out, form)
    return out.getvalue()


def fill_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def fill_zip(file: Path, files: Mapping[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def fill_tar(file: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


FILLS = {
    "folder": lambda root, files: fill_folder(root, files),
    "zip": lambda root, files: fill_zip(root / "some.zip", files),
    "tar": lambda root, files: fill_tar(root / "some.tar", files, "w"),
    "tgz": lambda root, files: fill_tar(root / "some.tgz", files),
}


def placed(place: str) -> dict[str, bytes]:
    """An image of each grey value of FOUR."""
    return {place.format(s=s, c=c, v=v): picture(v) for s, c, v in FOUR}


def csv_files(listed: str = "{c}{v}.png") -> dict[str, bytes]:
    """Ravi's three lists of FOUR."""
    files = {}
    for split in SPLITS:
        rows = [f"{listed.format(c=c, v=v)},{c}" for s, c, v in FOUR if s == split]
        files[f"{split}.csv"] = "\r\n".join(["filename,label", *rows]).encode()
    return files


def check_four(table: Table) -> None:
    assert names(table) == {"train": ("n1", "n2"), "val": ("n3",), "test": ("n4",)}
    assert table.rows[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def prepare(tmp_path: Path, name: str, channels: int = 3, path: Path | None = None) -> Table:
    return open_or_prepare(name, tmp_path / "raw", tmp_path / "prepared", 8, channels, path)


def names(table: Table) -> dict[str, tuple[str, ...]]:
    return {split: tuple(classes) for split, classes in table.splits.items()}


def fails(tmp_path: Path, *said: str, name: str = "folder", path: Path | None = None) -> None:
    """Preparing fails in one line that says all of `said`, and leaves no table."""
    with pytest.raises(UserError) as error:
        prepare(tmp_path, name, path=path)
    for words in said:
        assert words in str(error.value)
    assert not list((tmp_path / "prepared").glob("[!.]*"))
