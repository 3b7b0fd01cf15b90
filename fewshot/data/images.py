"""Image data sets by name: opened if prepared, else prepared from raw files, which may be downloaded."""

from pathlib import Path
from typing import Annotated

from fewshot.data import folder, glyphs, published
from fewshot.data.archives import files_in
from fewshot.data.table import Content, Table, open_or_write
from fewshot.errors import UserError
from fewshot.options import Channels, Few

NAMES = (*published.DOWNLOADS, "mini", "glyphs", "folder")


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
    home = path if path and name == "folder" else raw / name
    if name == "cub50" and not home.exists():
        home = raw / "cub"

    def read() -> Content:
        if name == "glyphs":
            return glyphs.read(size)
        try:
            if name in published.DOWNLOADS:
                return published.read(name, home, download)
            return published.read_mini(files_in(home)) if name == "mini" else folder.read(files_in(home))
        except UserError as error:
            raise UserError(f"{home}: {error}") from error

    reading = f"-{glyphs.READING}" if name == "glyphs" else ""
    table = f"{full_name(name, path)}{reading}-{size}-{'grey' if channels == 1 else 'rgb'}"
    return open_or_write(prepared / table, size, channels, read)


def full_name(name: str, path: Path | None) -> str:
    """The data set's name; for a folder one that also says where it is and which state of it this is."""
    return folder.table_name(path) if name == "folder" else name
