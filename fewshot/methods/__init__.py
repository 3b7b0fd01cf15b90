"""Meta-learners, one a file. A learner is chosen by its file's name, or by that of an installed entry point."""

from fewshot.methods.base import MetaLearner
from fewshot.plugins import chosen, names

NAMES = names(__name__)


def learner_class(name: str) -> type[MetaLearner]:
    """The learner of `fewshot/methods/<name>.py`; UserError where there is none."""
    return chosen(__name__, name, MetaLearner, "learner")
