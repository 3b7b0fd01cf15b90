"""SIGINT, SIGTERM and SIGHUP: a run in training saves its state and ends, anything else ends at once.

In a Slurm job also SIGUSR2, which comes when its time is nearly up: the state is saved, and submitit puts the
job back into the queue.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it

requested: signal.Signals | None = None  # a signal that came in training
training = False  # whether a training will look at `requested`
_installed = False
_worker = False
_terminals: list[int] = []  # which of stdout and stderr are one; cannot be asked when it has hung up
_requeue: Callable[[int, FrameType | None], Any] | None = None  # submitit's own handler


class Stopped(BaseException):
    """The end of a run by a signal, its state saved. Not an Exception: no error handling may swallow it."""

    def __init__(self, by: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + by


def install() -> None:
    """Handles the signals from here on, except those that are ignored (nohup, background jobs)."""
    global _installed, _terminals
    if not _installed:
        _terminals = [fd for fd in (1, 2) if os.isatty(fd)]
    _installed = True
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def install_in_worker(end: signal.Signals = signal.SIGTERM) -> None:
    """For a process that another one started: it gets `end` when its parent is gone.

    What a terminal sends is left to the parent.
    """
    global _worker
    if _installed:
        return
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    install()
    _worker = True
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.pid, end), daemon=True).start()


def install_in_joblib() -> None:
    """Lets joblib's processes end with this one from their start on, not only once they have a job."""
    from joblib import register_parallel_backend
    from joblib.parallel import LokyBackend

    class Backend(LokyBackend):
        def configure(self, *args: Any, **kwargs: Any) -> int:
            number: int = super().configure(*args, initializer=install_in_worker, **kwargs)
            return number

    register_parallel_backend("loky", Backend)


def install_in_slurm_job() -> None:
    """For a job of submitit: signals raise `Stopped`; after SIGUSR2 submitit requeues the job."""
    global _requeue
    install()
    handler = signal.getsignal(signal.SIGUSR2)
    if _requeue is None and callable(handler):
        _requeue = handler
        signal.signal(signal.SIGUSR2, _handle)


def requeues() -> bool:
    """Whether this is a Slurm job whose time is nearly up."""
    return requested == signal.SIGUSR2


def end_job(stop: Stopped) -> None:
    """Ends a job that a signal stopped.

    Returns only in a cancelled job of Slurm, whose launcher waits for a result.
    """
    if _worker:
        _exit(stop.exit_code)
    if _requeue is None:
        raise stop
    requeue()


def requeue() -> None:
    """Puts a Slurm job whose time is nearly up back into the queue, and ends it."""
    if requeues() and _requeue is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which Slurm sends meanwhile
        _requeue(signal.SIGUSR2, None)


def install_in_job() -> None:
    """For a job of a multirun, which a launcher may run in a process of its own."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        install_in_slurm_job()
    elif multiprocessing.current_process().name != "MainProcess":
        install_in_worker()


def set_training(on: bool) -> None:
    """Says whether a training will look at `requested`; Lightning may have taken a signal meanwhile."""
    global training
    training = on
    if on and _installed:
        install()


def write(text: str) -> None:
    """Writes to stderr; a closed terminal must not change how a run ends."""
    with suppress(OSError):
        os.write(2, (SHOW_CURSOR * os.isatty(2) + text).encode(errors="replace"))


def _end_with(parent: int, end: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), end)


def _exit(code: int) -> None:
    """Ends the process without clean-up that could fail: files are complete at any time."""
    with suppress(RuntimeError, ValueError, OSError):  # it is being written to just now, or is closed
        sys.stdout.flush()
    os._exit(code)


def _handle(number: int, _: FrameType | None) -> None:
    global requested
    by = signal.Signals(number)
    if by == signal.SIGHUP:  # the terminal is gone: printing must not fail
        for fd in _terminals:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    if training and requested is None:
        requested = by
        return
    if _worker:
        _exit(128 + number)
    if _requeue is not None:
        requested = by
        requeue()
        raise Stopped(by, f"stopped by {by.name}")
    write(f"stopped by {by.name}: nothing is lost, run the same command again\n")
    _exit(128 + number)
