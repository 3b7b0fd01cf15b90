"""`trainer.devices`: a run shared by several processes, each with a device and its share of the tasks.

Every update's meta-batch is divided among them, so n of them take the step that one would take: the loss of a
meta-batch is a sum, and so is its gradient.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.multiprocessing import ProcessContext, ProcessExitedException, start_processes
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fewshot.errors import LostProcess, UserError
from fewshot.training import signals

LOST = "a process of the run was lost: the same command resumes the run"


class SharedTasks(DDPStrategy):
    """Lightning's DDP, which adds the gradients where DDP would average; `processes` is its launcher."""

    def configure_ddp(self) -> None:
        pass

    def _configure_launcher(self) -> None:
        pass

    def post_backward(self, closure_loss: Tensor) -> None:
        """Adds the processes' gradients, in one message, before they are clipped or used."""
        assert self.lightning_module is not None
        grads = [p.grad for p in self.lightning_module.parameters() if p.grad is not None]
        total = parameters_to_vector(grads)
        dist.all_reduce(total)
        vector_to_parameters(total, grads)


def strategy_settings(devices: int) -> dict[str, Any]:
    """Arguments of Lightning's Trainer for several processes, which talk over their CPUs as well."""
    if devices == 1:
        return {"plugins": []}
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    strategy = SharedTasks(process_group_backend=backend)
    return {"devices": devices, "strategy": strategy, "plugins": [LightningEnvironment()]}


@contextmanager
def processes(devices: int, work: Callable[..., Any], *args: Any) -> Iterator[ProcessContext | None]:
    """While inside, `devices - 1` further processes do `work(*args)`; LostProcess where one was killed."""
    if devices == 1:
        yield None
        return
    os.environ["MASTER_PORT"] = str(find_free_network_port())
    others = start_processes(_begin, (work, args), devices - 1, join=False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(others, over), daemon=True).start()
    try:
        yield others
    except Exception as error:
        try:
            others.join(timeout=3)
        except ProcessExitedException as lost:
            raise LostProcess(f"{LOST} ({lost})") from error
        raise
    finally:
        over.set()
        for process in others.processes:
            process.kill()
            process.join()
        if dist.is_initialized():
            dist.destroy_process_group()


def _watch(others: ProcessContext, over: threading.Event) -> None:
    """Ends this process where another is lost and it does not notice, say while it waits for its start."""
    while not over.wait(1):
        if any(process.exitcode for process in others.processes) and not over.wait(15):
            print(f"error: {LOST}", file=sys.stderr)
            os._exit(1)


def _begin(index: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """A further process: it prints nothing, leaves errors to the first one, and ends with it."""
    os.environ["LOCAL_RANK"] = str(index + 1)
    signals.install()
    errors = suppress(signals.Stopped, UserError)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere), errors:
        work(*args)
