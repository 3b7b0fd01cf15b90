"""Classes chosen by name: that of a file in one of our folders, or of an installed entry point.

A package's own learners and backbones are entry points of the groups "fewshot.methods" and "fewshot.backbones". A run's
folder tells names and no more: what it can have imported is what is installed here.
"""

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from fewshot.errors import UserError

T = TypeVar("T")
NOT_CHOICES = ("base", "layers", "task_weight", "weights")


def installed(folder: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=folder)}


def names(folder: str) -> list[str]:
    """What may be chosen of a folder, given as a dotted package: its files, and installed entry points."""
    place = Path(__file__).parent.joinpath(*folder.split(".")[1:])
    files = {module.name for module in pkgutil.iter_modules([str(place)])}
    return sorted((files | {*installed(folder)}) - {*NOT_CHOICES})


def chosen(folder: str, name: str, of: type[T], what: str) -> type[T]:
    """The class of `<folder>/<name>.py` that is an `of`, called a `what`: the one no other there is derived from.

    Raises:
        UserError: there is no such file, or not one such class in it.
    """
    file = f"{folder.replace('.', '/')}/{name}.py"
    if name not in (known := names(folder)):
        raise UserError(f"there is no {file} with a {what}: choose one of {', '.join(known)}")
    if (point := installed(folder).get(name)) is not None:
        try:
            found = point.load()
        except Exception as error:  # a package may fail in any way
            line = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"the entry point {point.value} of {name} cannot be imported: {line}") from error
        if not (isinstance(found, type) and issubclass(found, of)):
            raise UserError(f"the entry point {point.value} of {name} is no {what} ({of.__name__})")
        return found
    module = importlib.import_module(f"{folder}.{name}")
    defined = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    right = [c for c in dict.fromkeys(defined) if issubclass(c, of)]
    last = [c for c in right if not any(other is not c and issubclass(other, c) for other in right)]
    if len(last) != 1:
        told = f" ({', '.join(c.__name__ for c in last)})" if last else ""
        raise UserError(f"{file} defines {len(last)} {what}s{told}, one is needed")
    return last[0]
