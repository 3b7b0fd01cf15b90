"""Settings are declared where they are used, as annotated parameters or attributes, and checked here.

`steps: Annotated[Few, "inner steps in training"]` says what a setting may be and, in one line, what it does. The
command line, `--help` and the constructors themselves read that one declaration. Values are taken strictly, as
pydantic does: no 1.0 or true where 1 is meant.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from fewshot.errors import UserError

Few = Annotated[int, Field(ge=1, le=10_000)]
Ways = Annotated[int, Field(ge=2, le=10_000)]  # with one class there is nothing to tell apart
Units = Annotated[int, Field(ge=1, le=100_000)]
Many = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
UnitsOfLayers = Annotated[Sequence[Units], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$", description="a path or a name")]

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}
NOT_OPTIONS = ("self", "task", "backbone", "input_shape")  # of a learner, and of a backbone


def as_int(value: Any) -> Any:
    """For a Literal of whole numbers, which takes true and 1.0 for 1."""
    if type(value) is not int:
        raise ValueError
    return value


Sign = Annotated[Literal[1, -1], BeforeValidator(as_int)]
Channels = Annotated[Literal[1, 3], BeforeValidator(as_int)]


def options(of: Callable[..., Any]) -> dict[str, Any]:
    """Name → annotation of the parameters of a function or constructor, or of the attributes of a plain class."""
    function = of.__init__ if isinstance(of, type) and of.__init__ is not object.__init__ else of  # type: ignore[misc]
    if hasattr(function, "declared"):
        return dict(function.declared)
    hints = get_type_hints(function, include_extras=True)
    names = hints if function is of and isinstance(of, type) else named(inspect.signature(function))
    return {name: hints.get(name, Any) for name in names if name not in NOT_OPTIONS}


def named(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    """The parameters without *args and **kwargs."""
    return {n: p for n, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def checked(
    init: Callable[..., None],
    before: Callable[[dict[str, Any]], None] = lambda _: None,
    after: Callable[[Any, dict[str, Any]], None] = lambda *_: None,
    parent: Callable[..., None] | None = None,
) -> Callable[..., None]:
    """A constructor whose arguments are checked by their annotations.

    Args:
        init: the constructor; where it takes **kwargs, the parameters of `parent` are its own as well.
        before: is then given all arguments by name, and may refuse or change them.
        after: is given the new object and its arguments, once, by the constructor of its own class.

    Raises:
        UserError: names the first argument that is not what it may be.
    """

    signature, declared = inspect.signature(init), options(init)
    own = named(signature)
    if parent is not None and len(own) < len(signature.parameters):
        inherited = named(inspect.signature(parent))
        last = [p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items() if name not in inherited]
        signature = signature.replace(
            parameters=[*(own.get(name, p) for name, p in inherited.items()), *last]
        )
        declared = options(parent) | declared

    @wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise UserError(f"{type(self).__name__}: {error}; it takes {', '.join(declared)}") from error
        plain = {name: kind for name, kind in declared.items() if is_plain(kind)}
        check_values(plain, {name: value for name, value in given.arguments.items() if name in plain})
        given.apply_defaults()
        before(given.arguments)
        init(self, **{name: value for name, value in given.arguments.items() if name != "self"})
        if type(self).__init__ is construct:
            after(self, given.arguments)

    construct.declared = declared  # type: ignore[attr-defined]
    construct.__signature__ = readable(signature, declared)  # type: ignore[attr-defined]
    return construct


def readable(signature: inspect.Signature, declared: Mapping[str, Any]) -> inspect.Signature:
    """The signature as help() should show it, with what each option does and may be."""
    told = {
        name: f"{help_of(kind)} ({words(kind)})".strip() for name, kind in declared.items() if is_plain(kind)
    }
    parameters = signature.parameters.items()
    return signature.replace(
        parameters=[p.replace(annotation=told.get(name, p.annotation)) for name, p in parameters]
    )


def check_values(declared: Mapping[str, Any], values: Mapping[str, Any], prefix: str = "") -> None:
    """UserError for the first value that its declaration does not allow; `prefix` is how its group is told."""
    for name, value in values.items():
        try:
            if is_plain(declared[name]) and not is_plain_value(
                value
            ):  # of which pydantic would make a number
                raise TypeError
            TypeAdapter(declared[name], config=STRICT).validate_python(value)
        except (ValidationError, TypeError) as error:
            shown = " ".join(as_told(value).split())[:100]
            allowed = words(declared[name])
            if type(value) is str and allowed.startswith("one of "):
                mend = f"choose {nearest(value, allowed.removeprefix('one of ').split(', '))}"
            else:
                mend = f"give {allowed}"
            raise UserError(f"{prefix}{name}={shown}: {mend}") from error


def as_told(value: Any) -> str:
    """A value as the command line takes it, as far as it can."""
    if type(value) is str:
        return value
    plain = value is None or type(value) in (bool, int, float, list)
    return json.dumps(value, separators=(",", ":"), default=repr) if plain else repr(value)


def is_plain(kind: Any) -> bool:
    """Whether an annotation is of numbers, texts, flags, choices, or lists of them."""
    if get_origin(kind) in (Annotated, Sequence, list, Union, UnionType):
        return all(map(is_plain, get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)))
    return kind in PLAIN or get_origin(kind) is Literal


def is_plain_value(value: Any) -> bool:
    """Whether a value is a text, a flag, none, a finite number that a float can hold, or a list of these."""
    if isinstance(value, list | tuple):
        return all(map(is_plain_value, value))
    if isinstance(value, int | float):
        return abs(value) < 1e300
    return isinstance(value, tuple(PLAIN))


def words(kind: Any) -> str:
    """What an annotation allows: "a whole number from 1 up to 10000"."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if told := [
            field.description for field in args[1:] if isinstance(field, FieldInfo) and field.description
        ]:
            return told[0]
        notes = [note for field in args[1:] if isinstance(field, FieldInfo) for note in field.metadata]
        bounds = [
            f"{word} {getattr(n, bound)}"
            for n in notes
            for bound, word in BOUNDS.items()
            if hasattr(n, bound)
        ]
        return " ".join([words(args[0]), *bounds])
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, UnionType):
        return " or ".join(map(words, args))
    if origin in (Sequence, list):
        return f"a list, each {words(args[0])}"
    return PLAIN.get(kind, getattr(kind, "__name__", str(kind)))


def help_of(kind: Any) -> str:
    """The line of help in an annotation, "" where there is none."""
    return next((note for note in getattr(kind, "__metadata__", ()) if isinstance(note, str)), "")


def nearest(name: str, choices: Iterable[str]) -> str:
    """`one of …` the choices, and which is nearest to `name`: much like it, or its beginning (mini of miniimagenet)."""
    choices = list(choices)
    within = sorted((choice for choice in choices if name.lower().startswith(choice)), key=len)[-1:]
    close = get_close_matches(name, choices, 1, 0.8) or within or get_close_matches(name, choices, 1, 0.5)
    return f"one of {', '.join(choices)}" + (f"; did you mean {close[0]}?" if close else "")
