"""`trainer.devices`: a run shared by several processes, each with a device and its share of the tasks.

Every update's meta-batch is divided among them, so n of them take the step that one would take: the loss of a
meta-batch is a sum, and so is its gradient.
"""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from fewshot import signals
from fewshot.errors import LostProcess, brief

READY = "ready"
_host: Any = None  # the group in which processes talk without waiting for their devices


class Shared(DDPStrategy):
    """Lightning's processes without its wrapper around the learner: `SumGradients` adds the gradients."""

    def configure_ddp(self) -> None:
        pass

    def _configure_launcher(self) -> None:
        """`together` has launched them; Lightning's would set the number of threads anew."""


class SumGradients(Callback):
    """Adds the processes' gradients, in one message, before they are clipped or used."""

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        total = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(total)
        for grad, added in zip(grads, total.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(added.view_as(grad))


def settings(devices: int, *plugins: Any) -> dict[str, Any]:
    """What Lightning's trainer is told of them, and its further plugins."""
    if devices == 1:
        return {"plugins": list(plugins)}
    return {"devices": devices, "strategy": Shared(), "plugins": [*plugins, LightningEnvironment()]}


def is_first() -> bool:
    """Whether this process is the one that writes, prints and logs."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def all_reduce_max(number: float) -> float:
    """The all_reduce_max of the processes' numbers; all must ask."""
    global _host
    if not dist.is_initialized():
        return number
    _host = _host or dist.new_group(backend="gloo")
    told = torch.tensor(number)
    dist.all_reduce(told, dist.ReduceOp.MAX, group=_host)
    return float(told)


@contextmanager
def together(devices: int, work: Callable[..., Any], *told: Any) -> Iterator[None]:
    """While inside, `devices - 1` further processes do `work(ready, *told)`, which is what this one does as well.

    It begins when each has called `ready`: a process that has gone before would be waited for in vain.

    Raises:
        LostProcess: one of them has gone, or failed and this one has not.
    """
    if devices == 1:
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    context, before, others = (
        multiprocessing.get_context("spawn"),
        dict(os.environ),
        list[tuple[Any, Connection]](),
    )
    try:
        with blocked(
            signal.SIGINT, signal.SIGHUP
        ):  # by inheritance for good in the others: a terminal's are ours
            for rank in range(1, devices):
                mine, its = context.Pipe()
                process = context.Process(
                    target=begin, args=(its, place | {"LOCAL_RANK": str(rank)}, work, *told)
                )
                process.start()
                its.close()
                others.append((process, mine))
        for number, (_, pipe) in enumerate(others, 1):
            if (said := heard(pipe)) != READY:
                raise LostProcess(f"process {number} of {devices} {said}")
        os.environ.update(place, LOCAL_RANK="0")
        yield
        for process, _ in others:
            process.join()
    except Exception as error:
        if is_of_a_connection(error) and (lost := first_lost(others)):
            raise LostProcess(f"process {lost[0]} of {devices} {lost[1]}") from error
        raise
    finally:
        end([process for process, _ in others])
        for key in (*place, "LOCAL_RANK"):
            os.environ.pop(key, None)
        os.environ.update({key: before[key] for key in (*place, "LOCAL_RANK") if key in before})


@contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(pipe: Connection, place: dict[str, str], work: Callable[..., Any], *told: Any) -> None:
    """A further process: it prints nothing, tells what it fails of, and ends when the first one has gone."""
    os.environ.update(place)
    signals.obey()
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            work(lambda: pipe.send(READY), *told)
    except signals.Stopped:
        pass
    except Exception as error:
        with suppress(OSError):  # who would hear it may have gone
            pipe.send(f"failed: {brief(error, 200)}")
        os._exit(1)


def heard(pipe: Connection, seconds: float | None = None) -> str:
    """What a process says next: that it is ready, what it failed of, or nothing any more."""
    try:
        return str(pipe.recv()) if pipe.poll(seconds) else ""
    except (EOFError, OSError):
        return "has gone"


def first_lost(others: Sequence[tuple[Any, Connection]]) -> tuple[int, str] | None:
    """The number of a process that has gone, and its last words; its end shows first as a broken connection."""
    for number, (_, pipe) in enumerate(others, 1):
        if said := heard(pipe, seconds=2):
            return number, said
    return None


def is_of_a_connection(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "onnection" in str(error)
    )


def end(others: Sequence[BaseProcess]) -> None:
    global _host
    for process in others:
        process.kill()
        process.join()
    _host = None
    if dist.is_initialized():
        with suppress(Exception):  # those it would tell are gone
            dist.destroy_process_group()
