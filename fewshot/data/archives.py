"""One view over any mix of folders, zips and tars: list their members, read them, never extract them."""

import os
import stat
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Literal, cast

from fewshot.errors import UserError

FILE_BYTES = 64 * 2**20  # no image or csv of these data sets comes near
PICKLE_BYTES = 2 * 2**30  # the train pickle of miniImageNet has 813 MB
SPREADSHEETS = (".xlsx", ".xls", ".ods")  # are zips, but not of images
_TAR_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")  # gzip, bzip2, xz


class NotFound(UserError):
    """A data set's files are not there, so that downloading them may help."""


@dataclass(frozen=True)
class Member:
    """A file: in a folder (`container` is the file itself) or in an archive (`container`)."""

    container: Path
    kind: Literal["file", "zip", "tar"]
    name: str  # its path, with "/", in the archive or below the listed folder

    @property
    def parts(self) -> tuple[str, ...]:
        return PurePosixPath(self.name).parts

    def __str__(self) -> str:
        return str(self.container) if self.kind == "file" else f"{self.name} in {self.container}"


def members(root: Path, skip: Sequence[str] = ()) -> list[Member]:
    """All safe, ordinary files in `root` and in the archives in it, sorted by folder; `skip`: sub-folders of `root`.

    Archives are known by their first bytes, not by their names. What of them is left out for its name or its size is
    told, but for the hidden files that some systems add.

    Raises:
        UserError: an archive is damaged, or a name is no text.
    """
    found = []
    for file in files_in(root, skip):
        with _reading(file):
            name = file.relative_to(root).as_posix() if file != root else file.name
            itself = Member(file, _kind(file), _composed(name))
        unsafe = []
        with _held(itself) as files:
            for name, size, _ in files:
                if _is_hidden(name):
                    continue
                try:
                    name.encode()
                except UnicodeEncodeError as error:
                    raise UserError(f"{file}: the name {name!a} is no UTF-8 text: rename it") from error
                if _is_safe(name, size, itself.kind):
                    found.append(Member(file, itself.kind, name))
                else:
                    unsafe.append(name)
        if unsafe:
            print(
                f"{file}: {len(unsafe)} files left out for their size (over {FILE_BYTES >> 20} MiB) or for a name that "
                f"leads out of the folder, the first is {unsafe[0]}",
                file=sys.stderr,
            )
    return found


@contextmanager
def opened(member: Member) -> Iterator[IO[bytes]]:
    """One member as a binary stream."""
    with (
        _held(member) as files,
        next(stream_of for name, _, stream_of in files if name == member.name)() as stream,
    ):
        yield stream


def read(wanted: Sequence[Member]) -> Iterator[tuple[int, bytes]]:
    """Yield (position in `wanted`, bytes), archive by archive: a compressed tar is only fast from start to end."""
    groups: dict[Path, dict[str, int]] = defaultdict(dict)
    for position, member in enumerate(wanted):
        groups[member.container][member.name] = position
    for positions in groups.values():
        with _held(wanted[next(iter(positions.values()))]) as files:
            for name, _, stream_of in files:
                if name in positions:
                    with stream_of() as stream:
                        yield positions.pop(name), stream.read(FILE_BYTES)


@contextmanager
def _held(member: Member) -> Iterator[Iterable[tuple[str, int, Callable[[], IO[bytes]]]]]:
    """Name, size and opener of each ordinary file beside a member, in the order of its archive; of a file, its own."""
    with _reading(member.container):
        if member.kind == "zip":
            with zipfile.ZipFile(member.container) as archive:
                entries = (
                    e
                    for e in archive.infolist()
                    if not e.is_dir() and not stat.S_ISLNK(e.external_attr >> 16)
                )
                yield ((_name_in_zip(e), e.file_size, partial(archive.open, e)) for e in entries)
        elif member.kind == "tar":
            with tarfile.open(member.container) as tar:
                opener = cast(Callable[[tarfile.TarInfo], IO[bytes]], tar.extractfile)  # None for links alone
                yield ((_composed(e.name), e.size, partial(opener, e)) for e in tar if e.isreg())
        else:
            yield [(member.name, member.container.stat().st_size, lambda: member.container.open("rb"))]


def _name_in_zip(entry: zipfile.ZipInfo) -> str:
    """An entry's path with "/": Windows may write backslashes, and macOS writes UTF-8 without saying so."""
    name = entry.filename
    if not entry.flag_bits & 0x800:  # then zipfile reads it as cp437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return _composed(name.replace("\\", "/"))


def _composed(name: str) -> str:
    """One name for what looks alike: macOS stores letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def files_in(root: Path, skip: Iterable[str] = ()) -> Iterator[Path]:
    """The files below `root` (or `root` itself, if a file), sorted by folder, without hidden ones.

    Pipes, devices and links that lead nowhere are no files.
    """
    if root.is_file():
        yield root
    seen = set()  # links to folders are followed (data often lives on another disk), but never in circles
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if f[0] != "." and not (Path(folder) == root and f in skip))
        paths = (Path(folder, file) for file in sorted(files) if file[0] != ".")
        yield from (path for path in paths if path.is_file())


def _kind(file: Path) -> Literal["file", "zip", "tar"]:
    with file.open("rb") as stream:
        start = stream.read(262)
    if file.suffix.lower() in SPREADSHEETS:
        return "file"
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if start[257:262] == b"ustar" or (start.startswith(_TAR_STARTS) and _begins_as_tar(file)):
        return "tar"
    return "file"


def _begins_as_tar(file: Path) -> bool:
    """Whether a compressed file holds a tar: any other one is nothing to us."""
    try:
        tarfile.open(file).close()
    except tarfile.ReadError:
        return file.name.endswith((".tgz", ".tar.gz"))  # a damaged one: listing it says so
    return True


def _is_hidden(name: str) -> bool:
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith(".")


def _is_safe(name: str, size: int, kind: str) -> bool:
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts or (kind != "file" and "\\" in name)
    return not leads_out and size <= (PICKLE_BYTES if path.suffix == ".pkl" else FILE_BYTES)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}): replace it by a complete copy") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted, unknown compression
        raise UserError(f"{file} cannot be read ({error}): pack it anew as an ordinary zip") from error
