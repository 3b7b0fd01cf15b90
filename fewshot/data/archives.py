"""The files of a data set: those in its folder, and those in zips and tars there, which are read in place."""

import glob
import posixpath
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fewshot.errors import UserError

TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
Files = dict[str, Callable[[], bytes]]  # relative path -> what reads the file


def files_below(root: Path) -> dict[str, Path]:
    """The files below `root` by their relative paths, without hidden ones; `root` itself if it is a file."""
    if root.is_file():
        return {root.name: root}
    names = sorted(glob.glob("**", root_dir=root, recursive=True))
    return {name: root / name for name in names if (root / name).is_file()}


def files_in(root: Path) -> Files:
    """All files below `root` and in archives there, by their paths; UserError for two files of one path."""
    found: Files = {}
    for name, path in files_below(root).items():
        inside = files_of(path) if name.endswith((".zip", *TARS)) else {name: path.read_bytes}
        for inner, read in inside.items():
            if inner in found and found[inner]() != read():
                raise UserError(f"{inner} is there twice with different content, once in {name}: keep one")
        found |= inside
    return found


def files_of(path: Path) -> Files:
    """The files in an archive; UserError if it is damaged."""
    try:
        archive = zipfile.ZipFile(path) if path.name.endswith(".zip") else as_zip(path)
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"cannot read {path.name}: {error}") from error
    names = [name for name in archive.namelist() if not re.search(r"(^|/)\.|/$", name)]  # hidden or a folder
    return {name: partial(archive.read, name) for name in names}


def as_zip(path: Path) -> zipfile.ZipFile:
    """A tar as an uncompressed zip: in a compressed tar it takes long to find a file."""
    copy = zipfile.ZipFile(tempfile.TemporaryFile(), "w")  # noqa: SIM115 (open as long as it is read)
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)):
                copy.writestr(posixpath.normpath(member.name), file.read())
    return copy
