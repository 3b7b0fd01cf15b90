"""SIGINT, SIGTERM and SIGHUP end a process; a run in training saves its state first.

In a Slurm job also SIGUSR2, which comes when its time is nearly up: submitit requeues the job.
"""

import multiprocessing
import os
import signal
import stat
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

requested: signal.Signals | None = None  # a signal that came in training
_training = _installed = False
_requeue: Any = None  # submitit's handler of SIGUSR2


class Stopped(BaseException):
    """The end of a job by a signal. Not an Exception: no error handling may swallow it."""

    def __init__(self, by: signal.Signals, then: str = "nothing is lost, run the same command again") -> None:
        super().__init__(f"stopped by {by.name}: {then}")
        self.by, self.status = by, "requeued" if by == signal.SIGUSR2 else "stopped"


def install() -> None:
    """Handles the signals from here on, except those that are ignored (nohup, background jobs).

    A child process ignores signals of the terminal and of Slurm, which its parent handles, and ends with it.
    """
    global _installed, _requeue
    parent = multiprocessing.parent_process()
    if parent is not None and not _installed:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    handler = signal.getsignal(signal.SIGUSR2)
    if callable(handler) and handler is not _handle:
        _requeue = handler
        signal.signal(signal.SIGUSR2, _handle)
    _installed = True


def set_training(on: bool) -> None:
    """Says whether a training will look at `requested`; Lightning takes SIGTERM when one begins."""
    global _training
    _training = on
    if on and _installed:
        install()


def end_job(stop: Stopped) -> None:
    """Ends the process; returns in a cancelled job of Slurm, whose launcher waits for a result."""
    with suppress(Exception):  # the terminal may be gone, and stdout be written to just now
        show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # which bars hide
        os.write(2, f"{show_cursor}{stop}\n".encode())
        sys.stdout.flush()
    if _requeue is None:
        os._exit(128 + stop.by)  # without clean-up, which could fail: files are complete at any time
    if stop.by == signal.SIGUSR2:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which Slurm sends meanwhile
        _requeue(signal.SIGUSR2, None)


def _handle(number: int, _: FrameType | None) -> None:
    global requested
    by = signal.Signals(number)
    if by == signal.SIGHUP:  # the terminal is gone: printing must not fail
        for output in (1, 2):
            if not stat.S_ISREG(os.fstat(output).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    if _training and requested is None:
        requested = by
    elif _requeue is None:
        end_job(Stopped(by))
    else:
        raise Stopped(by)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
