"""SIGINT, SIGTERM and SIGHUP: a run in training saves its state first; anything else has nothing to save, and ends.

A cluster's job saves it as well where its time is nearly up, and is then queued again by who gave it to the cluster.

Imported before everything slow, and itself light: a signal during the imports ends in one line as well.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

SIGNALS = [
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # not everywhere
CLUSTER = [signal.Signals[name] for name in ("SIGUSR2",) if hasattr(signal, name)]  # "your time is nearly up"
SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it

asked: signal.Signals | None = None  # what a run in training has been asked to end by
training = False
last_words: Callable[[], str] = str  # what there is to say of the other cells of a multirun
forced = False  # whether the run has overwrite=true
_listening = False
_obeying = False
_in_job = False
_queue_again: Callable[[int, FrameType | None], Any] | None = (
    None  # what a cluster's job does by its own signal
)
_terminals: list[int] = []


class Stopped(BaseException):
    """A signal's end of a run whose state is saved. No Exception: nothing that handles errors may keep it."""

    def __init__(self, by: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + by


def listen() -> None:
    """From here on the signals are ours, save those that are ignored (nohup, background jobs)."""
    global _listening
    if not _listening:
        _terminals.extend(fd for fd in (1, 2) if os.isatty(fd))
    _listening = True
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def obey() -> None:
    """For a process that a launcher gave cells to: it ends as a signal would end it when the launcher has gone.

    What a terminal sends to all is the launcher's to answer.
    """
    global _obeying
    if _listening:
        return
    for number in (*SIGNALS, *CLUSTER):
        if number.name != "SIGTERM":
            signal.signal(number, signal.SIG_IGN)
    listen()
    _obeying = True
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def serve() -> None:
    """For a cluster's job: what ends it raises `Stopped`, as somebody waits to be told how it ended."""
    global _in_job, _queue_again
    listen()
    _in_job = True
    for number in CLUSTER:
        if _queue_again is None and callable(handler := signal.getsignal(number)):
            _queue_again = handler
            signal.signal(number, _handle)


def queue_again() -> None:
    """Ends a cluster's job whose state is saved and whose time is up, to be gone on with by another."""
    if asked is not None and asked in CLUSTER and _queue_again is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the queue sends while we say so
        _queue_again(asked, None)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


def train(on: bool) -> None:
    """Says whether a training is going on that will look at `asked`; Lightning may have taken a signal meanwhile."""
    global training
    training = on
    if on and _listening:
        listen()


def tell(text: str) -> None:
    """Writes to stderr, unless whoever read it is gone: a closed terminal must not change how a run ends."""
    with suppress(OSError):
        os.write(2, (SHOW_CURSOR * os.isatty(2) + text).encode(errors="replace"))


def again() -> str:
    """The command that goes on with what was stopped."""
    return "the same command" + without_force()


def without_force() -> str:
    """What to say to who gave overwrite=true, which would begin anew."""
    return " without overwrite=true" * (forced or "overwrite=true" in sys.argv)


def _handle(number: int, _: FrameType | None) -> Any:
    global asked
    by = signal.Signals(number)
    if by.name == "SIGHUP":  # nobody reads on: what would be printed must not fail
        for fd in _terminals:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    if training and asked is None:
        asked = by
        return
    if _obeying:
        os._exit(128 + number)
    if _in_job:
        asked = by
        queue_again()
        raise Stopped(by, f"stopped by {by.name}: {again()} begins again where it was saved last")
    tell(f"stopped by {by.name}: nothing is lost, give {again()} again\n{last_words()}")
    with suppress(RuntimeError, ValueError, OSError):  # it is being written to just now, or is closed
        sys.stdout.flush()
    os._exit(128 + number)  # no clean-up that could fail, as every file stands whole anyway
