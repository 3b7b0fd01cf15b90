"""Says mistakes, and what is finished already, in the first second: torch and Lightning take several to import.

Settings are declared beside the code that uses them, whose modules import torch at their top. Within `light` these
imports find stand-ins, with which classes can be defined and nothing can be computed.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from fewshot.errors import UserError
from fewshot.plugins import FOLDERS, installed

HEAVY = {"torch", "torchvision", "torchmetrics", "lightning", "scipy", "pandas", "wandb"}


class Anything(type):
    """Of stand-ins for whatever a module may hold: classes to be derived from, called or taken as a type."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)


def stand_in(name: str) -> Any:
    return Anything(name, (), {"__init__": lambda *_, **__: None, "__call__": lambda _, function=None, **__: function})


class StandInModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, made := stand_in(name))
        return made


class StandIns(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in HEAVY else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def stand_ins() -> Iterator[None]:
    """Without torch while within; what was imported meanwhile is forgotten, and imported again when it is needed."""
    before, finder = {*sys.modules}, StandIns()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        strangers = {point.module.split(".")[0] for folder in FOLDERS for point in installed(folder).values()}
        for name in {*sys.modules} - before:
            if name.split(".")[0] in {*HEAVY, "fewshot", *strangers}:
                del sys.modules[name]


def first(look: Callable[[], Any]) -> Any:
    """What `look` finds without torch; None where torch is there already, or it cannot do without.

    Raises:
        UserError: as `look` does. It is called again, by whoever needs it, when torch is there.
    """
    if "torch" in sys.modules:
        return None
    with stand_ins():
        try:
            return look()
        except UserError:
            raise
        except Exception:
            return None
