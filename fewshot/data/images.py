"""Image data sets by name: opened if prepared, else prepared from raw files, which may be downloaded."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from fewshot.data import cub, folder, glyphs, mini, omniglot
from fewshot.data.archives import NotFound
from fewshot.data.table import Content, Table, open_or_write
from fewshot.errors import UserError
from fewshot.options import Channels, Few

READERS: dict[str, Callable[..., Content]] = {
    "omniglot": omniglot.content,
    "mini": mini.content,
    "cub": partial(cub.content, classes=200),
    "cub50": partial(cub.content, classes=50),
}
NAMES = (*READERS, "glyphs", "folder")
OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
CUB = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
DOWNLOADS = {  # address -> md5, those of torchvision (Omniglot) and CaltechDATA (CUB)
    "omniglot": {
        f"{OMNIGLOT}/images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
        f"{OMNIGLOT}/images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
    },
    "cub": {CUB: "97eceeb196236b17998738112f37df78"},
    "cub50": {CUB: "97eceeb196236b17998738112f37df78"},
}


def open_or_prepare(
    name: str,
    raw: Path,
    prepared: Path,
    size: Annotated[Few, "height and width of the images in pixels"],
    channels: Annotated[Channels, "1 (grey) or 3 (RGB)"],
    path: Path | None = None,
    download: bool = True,
) -> Table:
    """The table of data set `name`, prepared on first use.

    Args:
        name: one of NAMES.
        raw: the files, or archives of them, are in raw/<name>. Downloads go there.
        prepared: where tables are kept, one folder each.
        size, channels: in the paper 84 and 3 for photographs, 28 and 1 for characters.
        path: the folder (or archive) of images, for name "folder".
        download: whether missing files with an official address may be downloaded.

    Raises:
        UserError: raw files missing or damaged, no space, no connection; says what to put where.
    """
    if name not in NAMES or channels not in (1, 3):
        raise UserError(f"no image data {name} with channels={channels}: names are {', '.join(NAMES)}")
    kind = f"{size}-{'grey' if channels == 1 else 'rgb'}"
    make: Callable[..., Content] = partial(from_raw, name, raw, download)
    if name == "glyphs":
        make, kind = glyphs.content, f"{glyphs.READING}-{kind}"
    elif name == "folder":
        make = partial(folder.content, Path(path or ""))
    table = prepared / f"{full_name(name, path)}-{kind}"
    return open_or_write(table, (size, size, channels), partial(make, size=size, channels=channels))


def full_name(name: str, path: Path | None) -> str:
    """The data set's name; for a folder one that also says where it is and which state of it this is."""
    if name != "folder":
        return name
    if path is None or not path.exists():
        raise UserError(f"data=folder: {path} does not exist: give a folder of class folders as data.path=…")
    return folder.table_name(path)


def from_raw(name: str, raw: Path, may_download: bool, size: int, channels: int) -> Content:
    read = partial(READERS[name], raw, size, channels)
    try:
        return read()
    except NotFound:
        if not may_download:
            raise
    for url, md5 in DOWNLOADS[name].items():
        download_to(raw / name, url, md5)
    return read()


def download_to(folder: Path, url: str, md5: str) -> None:
    """UserError without a connection, where the folder cannot be written, or for a wrong checksum."""
    from torchvision.datasets.utils import download_url  # slow to import

    name = url.rpartition("/")[2]
    try:
        if not (folder / name).exists():
            download_url(url, folder, f".{name}", md5)
            (folder / f".{name}").replace(folder / name)
    except (OSError, RuntimeError) as error:  # torchvision raises RuntimeError for a wrong checksum
        raise UserError(f"cannot download ({error}): get {url} and put {name} into {folder}") from error
