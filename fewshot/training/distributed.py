"""`trainer.devices`: a run shared by several processes, each with a device and its share of the tasks.

Every update's meta-batch is divided among them, so n of them take the step that one would take: the loss of a
meta-batch is a sum, and so is its gradient.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.multiprocessing import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from fewshot.errors import LostProcess, UserError
from fewshot.training import signals

LOST = "a process of the run was lost ({}): the same command resumes the run"
_host: Any = None  # the group in which processes talk without waiting for their devices


class SharedTasks(DDPStrategy):
    """Lightning's DDP without its wrapper around the learner and its launcher.

    `SumGradients` adds the gradients, `processes` starts the processes.
    """

    def configure_ddp(self) -> None:
        pass

    def _configure_launcher(self) -> None:
        pass


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


def strategy_settings(devices: int) -> dict[str, Any]:
    """Arguments of Lightning's Trainer for several processes."""
    if devices == 1:
        return {"plugins": []}
    strategy = SharedTasks(timeout=timedelta(minutes=5))
    return {"devices": devices, "strategy": strategy, "plugins": [LightningEnvironment()]}


def is_first() -> bool:
    """Whether this process is the one that writes, prints and logs."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def all_reduce_max(number: float) -> float:
    """The largest of the processes' numbers; all must call it."""
    global _host
    if not dist.is_initialized():
        return number
    _host = _host or dist.new_group(backend="gloo")
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_host)
    return float(largest)


def all_reduce_sum(trainer: L.Trainer, value: Tensor) -> Tensor:
    return trainer.strategy.reduce(value.detach().clone(), reduce_op="sum")


@contextmanager
def processes(devices: int, work: Callable[..., Any], *args: Any) -> Iterator[None]:
    """While inside, `devices - 1` further processes do `work(*args)`, which is what this one does as well.

    Raises:
        LostProcess: one of them was killed.
    """
    if devices == 1:
        yield
        return
    global _host
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    before = dict(os.environ)
    answered_here = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}  # the others inherit that they are blocked
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, answered_here)
    others = start_processes(_begin, (place, work, args), devices - 1, join=False, start_method="spawn")
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    over = threading.Event()
    threading.Thread(target=_watch, args=(others, over), daemon=True).start()
    try:
        os.environ.update(place, LOCAL_RANK="0")
        yield
    except Exception as error:
        try:
            others.join(timeout=3)
        except ProcessExitedException as exited:
            raise LostProcess(LOST.format(exited)) from error
        except ProcessRaisedException:
            if isinstance(error, UserError):  # which the others have as well
                raise error from None
            raise
        raise
    finally:
        over.set()
        for process in others.processes:
            process.kill()
            process.join()
        _host = None
        if dist.is_initialized():
            with suppress(Exception):  # the others are gone
                dist.destroy_process_group()
        for name in (*place, "LOCAL_RANK"):
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in (*place, "LOCAL_RANK") if name in before})


def _watch(others: ProcessContext, over: threading.Event) -> None:
    """Ends this process where another is lost and it does not notice, say while it waits for its start."""
    while not over.wait(1):
        lost = [process for process in others.processes if process.exitcode]
        if lost and not over.wait(15):
            signals.write(f"error: {LOST.format(f'exit code {lost[0].exitcode}')}\n")
            os._exit(1)


def _begin(index: int, place: dict[str, str], work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """A further process: it prints nothing, and ends when the first one has gone."""
    os.environ.update(place, LOCAL_RANK=str(index + 1))
    signals.install_in_worker(end=signal.SIGKILL)
    nowhere = open(os.devnull, "w")  # noqa: SIM115  for the life of the process
    with redirect_stdout(nowhere), redirect_stderr(nowhere), suppress(signals.Stopped):
        work(*args)
