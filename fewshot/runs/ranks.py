"""`trainer.devices`: a run shared by several processes, each with a device and its share of the tasks.

Every update's meta-batch is divided among them, so n of them take the step that one would take: the loss of a
meta-batch is a sum, and so is its gradient.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from multiprocessing.process import BaseProcess
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from fewshot import stopping
from fewshot.errors import LostProcess

_host: Any = None  # the group in which processes talk without waiting for their devices


class Shared(DDPStrategy):
    """Lightning's processes without its wrapper around the learner: `SumGradients` adds the gradients."""

    def configure_ddp(self) -> None:
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


def settings(devices: int, *plugins: Any) -> dict[str, Any]:
    """What Lightning's trainer is told of them, and its further plugins."""
    if devices == 1:
        return {"plugins": list(plugins)}
    return {"devices": devices, "strategy": Shared(), "plugins": [*plugins, LightningEnvironment()]}


def is_first() -> bool:
    """Whether this process is the one that writes, prints and logs."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def greatest(number: float) -> float:
    """The greatest of the processes' numbers; all must ask."""
    global _host
    if not dist.is_initialized():
        return number
    _host = _host or dist.new_group(backend="gloo")
    told = torch.tensor(number)
    dist.all_reduce(told, dist.ReduceOp.MAX, group=_host)
    return float(told)


@contextmanager
def together(devices: int, work: Callable[..., Any], *told: Any) -> Iterator[None]:
    """While inside, `devices - 1` further processes do `work(*told)`, which is what this one does as well.

    Raises:
        LostProcess: one of them has gone.
    """
    if devices == 1:
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    context, before = multiprocessing.get_context("spawn"), dict(os.environ)
    others = [
        context.Process(target=begin, args=(place | {"LOCAL_RANK": str(rank)}, work, *told))
        for rank in range(1, devices)
    ]
    for process in others:
        process.start()
    os.environ.update(place, LOCAL_RANK="0")
    try:
        yield
        for process in others:
            process.join()
    except Exception as error:
        if gone := [rank for rank, process in enumerate(others, 1) if has_failed(process)]:
            raise LostProcess(f"process {gone[0]} of the {devices} that shared the run has gone") from error
        raise
    finally:
        end(others)
        for key in (*place, "LOCAL_RANK"):
            os.environ.pop(key)
        os.environ.update({key: before[key] for key in place if key in before})


def begin(place: dict[str, str], work: Callable[..., Any], *told: Any) -> None:
    """A further process: it is silent, and ends when the first one has gone."""
    os.environ.update(place)
    stopping.obey()
    with (
        suppress(stopping.Stopped),
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        work(*told)


def has_failed(process: BaseProcess) -> bool:
    process.join(timeout=2)  # what it died of is seen here first as a connection that broke
    return process.exitcode not in (None, 0)


def end(others: Sequence[BaseProcess]) -> None:
    global _host
    _host = None
    if dist.is_initialized():
        dist.destroy_process_group()
    for process in others:
        process.kill()
        process.join()
