"""Image data sets by name: open the prepared table, or prepare it from the raw files, or fetch those first."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from fewshot.data import cub, folder, glyphs, mini, omniglot
from fewshot.data.archives import Member, NotFound, members
from fewshot.data.download import FILES, fetch
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
ALSO_IN = {"cub": "cub50", "cub50": "cub"}  # each may be read from the other's raw folder


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
        raw: where the files are: in raw/<name>, or in raw itself. Downloads go to raw/<name>.
        prepared: where tables are kept, one folder each.
        size, channels: as their annotations say; 84 and 3 for photographs, 28 and 1 for characters in the paper.
        path: the folder (or archive) of images, for name "folder".
        download: whether missing files with an official address may be fetched.

    Raises:
        UserError: raw files missing or damaged, no space, no connection; says what to put where.
    """
    if name not in NAMES or channels not in (1, 3) or size < 1:
        raise UserError(
            f"no image data {name} with size={size}, channels={channels}: names are {', '.join(NAMES)}"
        )
    kind = f"{size}-{'grey' if channels == 1 else 'rgb'}"
    make = partial(_from_raw, name, raw, download)
    if name == "glyphs":
        make, kind = partial(glyphs.content), f"{glyphs.READING}-{kind}"
    elif name == "folder":
        make = partial(folder.content, Path(path or ""))
    table = prepared / f"{full_name(name, path)}-{kind}"
    return open_or_write(table, (size, size, channels), partial(make, size=size, channels=channels))


def full_name(name: str, path: Path | None) -> str:
    """The data set's name; of a folder with what tells it, and this state of it, from others."""
    if name != "folder":
        return name
    if path is None or not path.exists():
        raise UserError(f"data=folder: {path} does not exist: give a folder of class folders as data.path=…")
    return folder.table_name(path)


def _from_raw(name: str, raw: Path, download: bool, size: int, channels: int) -> Content:
    home = raw / name
    read = partial(READERS[name], folder=home, size=size, channels=channels)

    def listed() -> list[Member]:
        # of the other data sets' folders nothing is wanted, and a fault in them is no fault here
        files = [file for place in (name, ALSO_IN.get(name)) if place for file in members(raw / place)]
        return files + members(raw, skip=NAMES)

    try:
        return read(listed())
    except NotFound as error:
        if not download or name not in FILES:
            there = "" if raw.exists() else f"; the raw folder {raw} does not exist"
            raise NotFound(f"{error}{there}") from error
    for file, (url, md5) in FILES[name].items():
        fetch(url, home / file, md5)
    return read(listed())
