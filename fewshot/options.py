"""Types of settings, and constructors that check their arguments by them.

`passes: Annotated[Few, "passes over the support set"]` says what a setting may be and, in one line, what it
does. The constructor, the command line and `--help` read this one declaration. Values are checked by
pydantic, strictly: neither 1.0 nor true is taken for 1.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError, validate_call

from fewshot.errors import UserError

Few = Annotated[int, Field(ge=1, le=10_000)]
Ways = Annotated[int, Field(ge=2, le=10_000)]
Units = Annotated[int, Field(ge=1, le=100_000)]
Many = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, lt=1e300, allow_inf_nan=False)]
UnitsOfLayers = Annotated[Sequence[Units], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="forbid")
NOT_SETTINGS = ("self", "task", "backbone", "input_shape", "source", "table")  # are made from others


class Validated:
    """A base class: the constructors of its subclasses check their arguments by the annotations.

    UserError names the first wrong one, in pydantic's words. A new object's method `save_arguments`, if there
    is one, gets the arguments by name, first from the constructors of its base classes.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            return
        check, signature = validate_call(config=STRICT)(cls.__init__), inspect.signature(cls.__init__)
        named = [name for name, p in signature.parameters.items() if p.kind not in VARIABLE]

        @wraps(cls.__init__)
        def construct(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                check(self, *args, **kwargs)
            except ValidationError as error:
                raise UserError(f"{type(self).__name__}: {first_error(error, named)}") from None
            if hasattr(self, "save_arguments"):
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                self.save_arguments({name: bound.arguments[name] for name in named[1:]})

        cls.__init__ = construct  # type: ignore[method-assign]


def first_error(error: ValidationError, names: Sequence[str] = ()) -> str:
    """`passes=0: Input should be greater than or equal to 1`; positional arguments by their `names`."""
    found = error.errors()[0]
    first, *inner = found["loc"]
    name = ".".join(map(str, [names[first] if isinstance(first, int) else first, *inner]))
    value = "" if found["type"].startswith("missing") else f"={str(found['input'])[:100]}"
    return f"{name}{value}: {found['msg'].removeprefix('Value error, ')}"


def settings_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Name → annotation of the settings of a constructor or a function."""
    parameters, found = inspect.signature(target, eval_str=True).parameters, dict[str, Any]()
    if isinstance(target, type) and any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        found = settings_of(target.__mro__[1])  # which takes the others
    own = {name: p for name, p in parameters.items() if p.kind not in VARIABLE and name not in NOT_SETTINGS}
    return found | {name: Any if p.annotation is p.empty else p.annotation for name, p in own.items()}


def help_of(annotation: Any) -> str:
    """The line of help in an annotation, and the choices of a Literal."""
    text = next((note for note in getattr(annotation, "__metadata__", ()) if isinstance(note, str)), "")
    choices = [get_args(a) for a in (annotation, *get_args(annotation)) if get_origin(a) is Literal]
    return f"{text} ({' | '.join(map(str, choices[0]))})" if choices else text
