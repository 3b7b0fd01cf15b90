"""Files that have an official address: fetched with resumption, checked, put into the raw folder whole."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from fewshot.errors import UserError

_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_CUB = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
_CUB_FILE = {"CUB_200_2011.tgz": (_CUB, "97eceeb196236b17998738112f37df78")}

# data set -> file -> address and md5, those of torchvision (Omniglot) and CaltechDATA (CUB)
FILES = {
    "omniglot": {
        "images_background.zip": (f"{_OMNIGLOT}/images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
        "images_evaluation.zip": (f"{_OMNIGLOT}/images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
    },
    "cub": _CUB_FILE,
    "cub50": _CUB_FILE,
}


def fetch(url: str, file: Path, md5: str, timeout: float = 30) -> None:
    """Download `url` to `file` unless it is there; an interrupted download is taken up where it ended.

    Raises:
        UserError: no connection, an unwritable folder, or a wrong checksum.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            if file.exists():
                return
            _resume(url, part, timeout)
            with part.open("rb") as stream:
                digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if digest != md5:
                part.unlink()
                raise UserError(f"{url}: md5 {digest}, not {md5}: run again, or put {file} there yourself")
            part.replace(file)
    except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cannot download ({reason}): get {url} and put {file.name} into {file.parent}"
        ) from error


def _resume(url: str, part: Path, timeout: float) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to send: the checksum will tell
            return
        raise
    columns = (
        TextColumn("downloading {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with answer, Progress(*columns, console=Console(stderr=True)) as progress:
        if answer.status != 206:
            done = 0  # this server starts again
        length = answer.headers.get("Content-Length")
        bar = progress.add_task(part.stem, total=done + int(length) if length else None, completed=done)
        with part.open("ab" if done else "wb") as out:
            while block := answer.read(2**20):
                out.write(block)
                progress.advance(bar, len(block))
    if length and part.stat().st_size < done + int(length):
        raise http.client.IncompleteRead(b"")
