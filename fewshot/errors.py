"""What ends a run with one line: a user's mistake, no time left, numbers that are no longer finite."""

import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """Something that the user can change: shown as one line, without a traceback, with exit code 2."""


class Diverged(Exception):
    """A prediction, a loss, a weight or a score is no longer finite."""


class LostProcess(Exception):
    """One of the processes that share a run has ended; the state saved last stays."""


class OutOfTime(Exception):
    """`trainer.max_time` is over; the state is saved."""


MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)


def exit_code(program: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Runs a program; a user's mistake is one line on stderr and exit code 2."""
    try:
        return program(arguments)
    except MISTAKES as error:
        return report_mistake(error)


def report_mistake(error: Exception) -> int:
    """Prints a user's mistake in one line, and returns its exit code."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 2


def one_line(error: BaseException, letters: int = 500) -> str:
    """What an error says, in one line without control characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:letters]


def brief(error: BaseException, letters: int) -> str:
    """Its kind and what it says, in one line."""
    return f"{type(error).__name__}: {one_line(error, letters)}"


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch asked for memory that cannot be had."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )
