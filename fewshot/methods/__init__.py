"""Meta-learners, one a file. A learner is chosen by its file's name, or by that of an installed entry point.

A package's own learners are entry points of the group "fewshot.methods". A run's folder names a method and no more:
what it can have imported is what is installed here.
"""

import importlib
import pkgutil
from importlib.metadata import entry_points

from fewshot.errors import UserError
from fewshot.methods.base import MetaLearner

INSTALLED = {point.name: point for point in entry_points(group="fewshot.methods")}
NAMES = sorted({module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"} | {*INSTALLED})


def learner_class(name: str) -> type[MetaLearner]:
    """The learner of `fewshot/methods/<name>.py`, the one that no other in the file is derived from.

    Raises:
        UserError: there is no such file, or not one learner in it.
    """
    if name not in NAMES:
        raise UserError(f"there is no fewshot/methods/{name}.py with a learner: choose one of {', '.join(NAMES)}")
    if name in INSTALLED:
        found = INSTALLED[name].load()
        if not (isinstance(found, type) and issubclass(found, MetaLearner)):
            raise UserError(f"the entry point {INSTALLED[name].value} of method={name} is no MetaLearner")
        return found
    module = importlib.import_module(f"{__name__}.{name}")
    defined = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    learners = [c for c in dict.fromkeys(defined) if issubclass(c, MetaLearner)]
    last = [c for c in learners if not any(other is not c and issubclass(other, c) for other in learners)]
    if len(last) != 1:
        names = f" ({', '.join(c.__name__ for c in last)})" if last else ""
        raise UserError(f"fewshot/methods/{name}.py defines {len(last)} learners{names}, one is needed")
    return last[0]
