"""What ends a run with one line: a user's mistake, no time left, numbers that are not finite."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback, with exit code 2.

    The message names what is wrong and how to mend it.
    """


class Busy(UserError):
    """Another process is at work on the run of `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another process is at work on {folder}: wait for it, or choose another seed")
        self.folder = folder


class Diverged(Exception):
    """A prediction, a loss, a weight or a score is no longer finite."""


class OutOfTime(Exception):
    """`trainer.max_time` is over; the state is saved."""


class LostProcess(Exception):
    """One of the processes that share a run has gone; the state saved last stays."""


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch asked for memory that cannot be had."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )


def brief(error: BaseException, letters: int) -> str:
    """Its kind and what it says, in one line of as many letters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:letters]}"


def exit_code(program: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """The exit code of a program; what the user can correct is one line on stderr and code 2."""
    try:
        return program(arguments)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
