"""The networks under the learners."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import get_class

from fewshot.backbones.base import Body
from fewshot.errors import UserError

DEFAULT = "fewshot.backbones.blocks.Blocks"


def make_body(input_shape: Sequence[int], backbone: Mapping[str, Any]) -> Body:
    """The backbone that settings describe, for inputs of one shape.

    `backbone` holds the options of a class, and as `_target_` its dotted name; without it, those of `Blocks`:
    `{"layer": "linear", "widths": [64, 64]}`. Settings may come from a checkpoint: a class outside this
    package has to be imported already, else UserError.
    """
    options = dict(backbone)
    options.pop("name", None)
    target = options.pop("_target_", DEFAULT)
    module = target.rpartition(".")[0]
    if not module.startswith("fewshot.backbones.") and module not in sys.modules:
        raise UserError(f"backbone {target}: import {module} first")
    return get_class(target)(input_shape, **options)
