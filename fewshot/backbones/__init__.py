"""The networks under the learners, one kind a file; a YAML in `conf/backbone` names the file and its options."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fewshot.backbones.base import Body
from fewshot.errors import UserError
from fewshot.options import check_values, options
from fewshot.plugins import chosen, names

USUAL = "blocks"


def body_class(name: str = USUAL) -> type[Body]:
    """The backbone of `fewshot/backbones/<name>.py`; UserError where there is none."""
    return chosen(__name__, name, Body, "backbone")


def told(backbone: Mapping[str, Any]) -> tuple[type[Body], dict[str, Any]]:
    """The class and the options that settings tell, as {"body": "resnet12", "widths": [64, 160, 320, 640]}.

    Raises:
        UserError: an option is unknown, missing, or not what it may be.
    """
    if not isinstance(backbone, Mapping):
        raise UserError(
            f"backbone={backbone!r}: give a dictionary, as {{'layer': 'linear', 'widths': [64, 64]}}"
        )
    cls = body_class(str(backbone.get("body", USUAL)))
    own = {key: value for key, value in backbone.items() if key != "body"}
    try:
        inspect.signature(cls).bind(input_shape=(), **own)
    except TypeError as error:
        raise UserError(f"backbone={dict(backbone)}: {error}") from error
    check_values(options(cls), own, "backbone.")
    return cls, own


def make_body(input_shape: Sequence[int], backbone: Mapping[str, Any]) -> Body:
    cls, own = told(backbone)
    return cls(input_shape, **own)


def body_options(name: str = USUAL) -> dict[str, Any]:
    """Name → annotation of the options of a backbone's file."""
    told_by = {} if name == USUAL else {"body": Annotated[Literal[name], "file of fewshot/backbones"]}
    return options(body_class(name)) | told_by


NAMES = names(__name__)
