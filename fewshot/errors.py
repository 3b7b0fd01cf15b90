"""What ends a run without a traceback: a user's mistake, no time left, numbers that are no longer finite."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """Something that the user can change: shown as one line, with exit code 2."""


class Diverged(Exception):
    """A prediction, a loss, a weight or a score is no longer finite."""

    status = "diverged"


class LostProcess(Exception):
    """One of the processes that share a run has ended; the state saved last stays."""


class OutOfTime(Exception):
    """`trainer.max_time` is over; the state is saved."""

    status = "timeout"


MISTAKES = (UserError, HydraException, OmegaConfBaseException, ImportError, OSError)
# the exit code of each outcome of a program or of a job of a multirun, the least severe first
EXIT_CODES = {"finished": 0, "out of time": 124, "requeued": 143, "stopped": 143, "failed": 1, "invalid": 2}


def show_error(error: Exception) -> tuple[str, str]:
    """Prints an error in one line, an unknown one after its traceback. Returns the outcome, and why."""
    why, outcome = " ".join(str(error).split()) or type(error).__name__, "failed"
    if isinstance(error, (*MISTAKES, OutOfTime)):
        outcome = "out of time" if isinstance(error, OutOfTime) else "invalid"
    elif not isinstance(error, (Diverged, LostProcess)):
        traceback.print_exc()
    print(f"error: {why}", file=sys.stderr)
    return outcome, why


def exit_code(program: Callable[..., int | None], *arguments: Any) -> int:
    """Runs a program, shows an error that ends it, and returns its exit code."""
    try:
        return program(*arguments) or 0
    except SystemExit as end:
        return int(end.code or 0)
    except Exception as error:
        return EXIT_CODES[show_error(error)[0]]


@contextmanager
def optional(what: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """An error inside is a line on stderr: neither a picture nor W&B can lose a score."""
    try:
        yield
    except kind as error:
        print(f"{what} failed: {brief(error, 200)}", file=sys.stderr)


def brief(error: BaseException, letters: int) -> str:
    """Its kind and what it says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:letters]
