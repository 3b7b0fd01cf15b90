"""Files in folders, zips and tars, listed and read alike. Archives are read in place and never unpacked."""

import codecs
import os
import posixpath
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path
from typing import IO, cast

from fewshot.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError, RuntimeError)
Opener = Callable[[], IO[bytes]]


class NotFound(UserError):
    """A data set's files are not there; downloading them may help."""


@dataclass(frozen=True, eq=False)
class File:
    """A file in a folder or in an archive."""

    path: str  # absolute; in an archive: the archive's path and the path in it
    name: str  # its path below the listed folder, or in the archive
    position: int  # in the listing: a compressed tar is only fast from start to end
    open: Opener

    def __str__(self) -> str:
        return self.path

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.name.split("/"))

    def read(self) -> bytes:
        with damage_named(self.path), self.open() as stream:
            return stream.read()

    def text(self) -> str:
        """The file as UTF-8 or, with a byte order mark, UTF-16."""
        data = self.read()
        utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            return data.decode("utf-16" if utf_16 else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self} is not UTF-8 text: save it as UTF-8, or remove it") from error


class Tar(tarfile.TarFile):
    def __del__(self) -> None:
        self.close()


def is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGES)


def list_files(root: Path) -> list[File]:
    """All files below `root` and in the archives there, sorted by folder, without hidden ones.

    Raises:
        UserError: an archive is damaged.
    """
    root, found = Path(os.path.abspath(root)), list[File]()
    for path in walk(root):
        place, own = path.as_posix(), path.relative_to(root).as_posix() if path != root else path.name
        with damage_named(place):
            for member, opener in members(path):
                name = unicodedata.normalize("NFC", member or own)  # macOS writes letters and accents apart
                full = unicodedata.normalize("NFC", f"{place}/{member}" if member else place)
                if not name.rpartition("/")[2].startswith(".") and "__MACOSX" not in name:
                    found.append(File(full, name, len(found), opener))
    return found


def walk(root: Path) -> Iterator[Path]:
    """The files below `root` (or `root` itself, if a file), sorted by folder, without hidden ones."""
    if root.is_file():
        yield root
    seen = set()  # links to folders are followed, but not in circles
    for folder, folders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(folder, name) for name in sorted(files) if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def members(path: Path) -> Iterator[tuple[str, Opener]]:
    """Name and opener of each file in an archive; of another file "" and its own."""
    if path.name.lower().endswith(".zip"):
        archive = zipfile.ZipFile(path)
        for entry in archive.infolist():
            if not entry.is_dir():
                yield name_in_zip(entry), partial(archive.open, entry)
    elif path.name.lower().endswith(TARS):
        tar = Tar.open(path)
        for member in tar:
            if member.isreg():
                yield posixpath.normpath(member.name), cast(Opener, partial(tar.extractfile, member))
    else:
        yield "", cast(Opener, partial(path.open, "rb"))


def name_in_zip(entry: zipfile.ZipInfo) -> str:
    """An entry's path: Windows may write backslashes, and macOS writes UTF-8 without saying so."""
    name = entry.filename
    if not entry.flag_bits & 0x800:  # zipfile has read it as cp437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return posixpath.normpath(name.replace("\\", "/"))


@contextmanager
def damage_named(path: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read ({error}): replace it with a complete copy") from error
