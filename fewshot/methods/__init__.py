"""Meta-learners, one a file. A learner is chosen by its file's name, from this package and nowhere else."""

import importlib
import pkgutil

from fewshot.errors import UserError
from fewshot.methods.base import MetaLearner

NAMES = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def learner_class(name: str) -> type[MetaLearner]:
    """The MetaLearner defined in `fewshot/methods/<name>.py`; UserError for any other name."""
    if name not in NAMES:
        raise UserError(f"unknown method {name!r}: choose one of {', '.join(NAMES)}")
    module = importlib.import_module(f"{__name__}.{name}")
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    return next(c for c in classes if issubclass(c, MetaLearner))
