"""Types of settings, and constructors that check their arguments by them.

`passes: Annotated[Few, "passes over the support set"]` says what a setting may be and, in one line, what it
does. The constructor, the command line and `--help` read this one declaration. Values are checked by
pydantic, strictly: neither 1.0 nor true is taken for 1.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, validate_call

from fewshot.errors import UserError

Few = Annotated[int, Field(ge=1, le=10_000)]
Ways = Annotated[int, Field(ge=2, le=10_000)]
Units = Annotated[int, Field(ge=1, le=100_000)]
Many = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, lt=1e300, allow_inf_nan=False)]
UnitsOfLayers = Annotated[Sequence[Units], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="forbid")
# arguments that are built before
NOT_SETTINGS = ("self", "task", "backbone", "input_shape", "source", "table")


def as_int(value: Any) -> int:
    """For a Literal of whole numbers, which would take true and 1.0 for 1."""
    if type(value) is not int:
        raise ValueError("Input should be a valid integer")
    return value


Sign = Annotated[Literal[1, -1], BeforeValidator(as_int)]
Channels = Annotated[Literal[1, 3], BeforeValidator(as_int)]


def validated(
    init: Callable[..., None],
    parent: Callable[..., None] = object.__init__,
    remember: Callable[[Any, dict[str, Any]], None] | None = None,
) -> Callable[..., None]:
    """A constructor whose arguments are checked by their annotations.

    Args:
        init: the constructor.
        parent: the constructor of its base class, whose arguments it takes as well where it has `**kwargs`.
        remember: called with the new object and its arguments by name, by the constructor of the object's
        class.

    Raises:
        UserError: names the first wrong argument, in pydantic's words.
    """
    check, signature = validate_call(config=STRICT)(init), joint_signature(init, parent)

    @wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            check(self, *args, **kwargs)
        except ValidationError as error:
            problem = first_error(error, list(signature.parameters))
            raise UserError(f"{type(self).__name__}: {problem}") from None
        if remember is not None and type(self).__init__ is construct:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            remember(self, {name: value for name, value in bound.arguments.items() if name != "self"})

    construct.__signature__ = signature  # type: ignore[attr-defined]
    return construct


def joint_signature(init: Callable[..., None], parent: Callable[..., None]) -> inspect.Signature:
    """A constructor's signature, with its parent's arguments in the place of `*args` and `**kwargs`."""
    signature = inspect.signature(init)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = {name: p for name, p in signature.parameters.items() if p.kind not in variable}
    if len(own) == len(signature.parameters):
        return signature
    inherited = {n: p for n, p in inspect.signature(parent).parameters.items() if p.kind not in variable}
    new = [p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items() if name not in inherited]
    return signature.replace(parameters=[*inherited.values(), *new])


def first_error(error: ValidationError, names: Sequence[str] = ()) -> str:
    """`passes=0: Input should be greater than or equal to 1`; positional arguments by their `names`."""
    found = error.errors()[0]
    first, *inner = found["loc"]
    name = ".".join(map(str, [names[first] if isinstance(first, int) and names else first, *inner]))
    if found["type"].startswith("missing"):
        return f"{name}: {found['msg']}"
    return f"{name}={str(found['input'])[:100]}: {found['msg'].removeprefix('Value error, ')}"


def check_settings(model: type[BaseModel], values: Mapping[str, Any], group: str = "") -> None:
    """UserError for the first value that `model` does not allow; `group` is the settings' prefix."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise UserError(group + first_error(error)) from None


def settings_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Name → annotation of the settings of a constructor, a function or a pydantic model."""
    if isinstance(target, type) and issubclass(target, BaseModel):
        return get_type_hints(target, include_extras=True)
    parameters = inspect.signature(target).parameters
    return {name: p.annotation for name, p in parameters.items() if name not in NOT_SETTINGS}


def help_of(annotation: Any) -> str:
    """The line of help in an annotation, and the choices of a Literal."""
    text = next((note for note in getattr(annotation, "__metadata__", ()) if isinstance(note, str)), "")
    literal = next(
        (a for a in (annotation, *get_args(annotation)) if getattr(a, "__origin__", None) is Literal), None
    )
    return f"{text} ({' | '.join(map(str, get_args(literal)))})" if literal else text
