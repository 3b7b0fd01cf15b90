"""Small images, zips and tars for the tests of the readers."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


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
