"""Which image a path in a list means."""

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from os.path import abspath
from pathlib import PurePosixPath

from fewshot.data.archives import Member, read
from fewshot.data.decode import is_image, is_image_name
from fewshot.errors import UserError


class Finder:
    """Finds images by the paths that lists give: an image whose path ends with the listed one."""

    def __init__(self, files: Sequence[Member]) -> None:
        self.named: dict[
            str, list[tuple[str, Member]]
        ] = {}  # by file name, with and without suffix, in lower case
        for file in filter(is_image, files):
            path = (
                abspath(file.container) if file.kind == "file" else f"{abspath(file.container)}/{file.name}"
            )
            path = slashed(path)
            name = path.rpartition("/")[2].casefold()
            for key in (name, name.rpartition(".")[0]):
                self.named.setdefault(key, []).append((path, file))

    def find(self, listed: str) -> list[Member]:
        """The images that a listed path can mean, the suffix and upper case only where it gives them."""
        path = slashed(listed)
        close = self.named.get(path.rpartition("/")[2].casefold(), [])
        if not is_image_name(path):
            close = [(name.rpartition(".")[0], file) for name, file in close]
        return ending(close, path, str) or ending(close, path, str.casefold)

    def match(self, name: str, rows: Sequence[tuple[str, str | None]]) -> list[Member | None]:
        """The image of each row (listed path, class) of the list `name`; None for an image that is not there.

        Of several images the one in a folder of the class's name; identical copies of one file count once.

        Raises:
            UserError: a row can mean several images.
        """
        found = [self.find(listed) for listed, _ in rows]
        for row, (_, label) in enumerate(rows):
            if len(found[row]) > 1:
                found[row] = [file for file in found[row] if label in file.parts[:-1]] or found[row]
        several = list({file: None for files in found if len(files) > 1 for file in files})
        digests = {several[at]: hashlib.sha256(data).digest() for at, data in read(several)}
        for (listed, _), files in zip(rows, found, strict=True):
            if len(files) > 1 and len({digests[file] for file in files}) > 1:
                raise UserError(
                    f"{name} lists {listed}, and {len(files)} images are called so "
                    f"({', '.join(map(str, files[:3]))}): give more of its path there, or remove the others"
                )
        return [files[0] if files else None for files in found]


def ending(close: Sequence[tuple[str, Member]], path: str, plain: Callable[[str], str]) -> list[Member]:
    return [file for name, file in close if plain(f"/{name}").endswith(plain(f"/{path}"))]


def slashed(path: str) -> str:
    """A path with "/" on every system, without ./ and ../, its letters in their composed form."""
    parts = PurePosixPath(unicodedata.normalize("NFC", path.replace("\\", "/"))).parts
    return "/".join(part for part in parts if part not in ("/", ".."))
