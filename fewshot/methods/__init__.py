"""Meta-learners, one a file. A learner is chosen by its file's name, from this package and nowhere else."""

import importlib
import pkgutil

from fewshot.errors import UserError
from fewshot.methods.base import MetaLearner

NAMES = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def learner_class(name: str) -> type[MetaLearner]:
    """The learner of `fewshot/methods/<name>.py`, the one that no other in the file is derived from.

    Raises:
        UserError: there is no such file, or not one learner in it.
    """
    if name not in NAMES:
        raise UserError(f"there is no fewshot/methods/{name}.py with a learner: choose one of {', '.join(NAMES)}")
    module = importlib.import_module(f"{__name__}.{name}")
    defined = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    learners = [c for c in dict.fromkeys(defined) if issubclass(c, MetaLearner)]
    found = [c for c in learners if not any(other is not c and issubclass(other, c) for other in learners)]
    if len(found) != 1:
        names = f" ({', '.join(c.__name__ for c in found)})" if found else ""
        raise UserError(f"fewshot/methods/{name}.py defines {len(found)} learners{names}, one is needed")
    return found[0]
