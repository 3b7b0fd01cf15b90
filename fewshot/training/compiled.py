"""`trainer.compile`: what a learner repeats in training, as one piece of compiled code."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig
from torch._dynamo.exc import TorchDynamoException

from fewshot.errors import UserError, brief
from fewshot.methods.base import MetaLearner
from fewshot.training.captured import captured, recordable

LONG = 150_000  # passes or inner steps: each saves .3 ms or more on a CPU, and compiling takes half a minute or more


@contextmanager
def compiled(learner: MetaLearner, cfg: DictConfig, device: torch.device) -> Iterator[bool]:
    """Training inside may call compiled code in the place of the learner's method `repeated`; on a GPU, where it is
    asked for, in that of all its `losses`, as CUDA graphs, if the learner is `one_graph`. `learner.compiled` tells.
    On a GPU `trainer.compile=auto` compiles nothing: the `losses` are `recorded` as they are. Gives whether either is.

    Torch keeps the code for the next run. It is for the shapes of training: validation and test do without. What
    `trainer.compile=auto` cannot compile is trained as it is, which a line says.

    Raises:
        UserError: `trainer.compile=true`, and the machine has no compiler.
    """
    learner.compiled = wanted(learner, cfg, device)
    if not learner.compiled:
        replays = cfg.trainer.compile == "auto" and recordable(learner, cfg, device)
        with captured(learner) if replays else nullcontext():
            yield replays
        return
    name = str(piece(learner, device))
    how_long = "half a minute or more the first time"
    print(f"compiles {type(learner).__name__}.{name}, {how_long} (trainer.compile)", file=sys.stderr)
    plain = getattr(learner, name)
    if name == "losses":
        # channels last, which tensor cores take: torch has it off where no layer has more than 64
        options: dict[str, Any] = {"triton.cudagraphs": True, "force_layout_optimization": True}
        replayed = torch.compile(plain, fullgraph=True, dynamic=False, options=options)
        # the next update's results come into the same memory, and a bar may show these
        setattr(learner, name, lambda episode: tuple(result.clone() for result in replayed(episode)))
    else:
        quick = torch.compile(plain, fullgraph=True, dynamic=False)

        def either(*told: Any) -> Any:
            if not learner.compiled or not torch.is_grad_enabled():
                return plain(*told)
            try:
                return quick(*learner.alike(*told))
            except TorchDynamoException as error:
                if cfg.trainer.compile is True:
                    raise
                learner.compiled = False
                print(
                    f"trains {name} without compiling, which torch cannot ({brief(error, 100)})",
                    file=sys.stderr,
                )
                return plain(*told)

        setattr(learner, name, either)
    try:
        with torch._dynamo.config.patch(allow_rnn=True):  # a learner may read the weights of a torch.nn.LSTM
            yield True
    finally:
        delattr(learner, name)
        torch._dynamo.reset()  # it takes eight kinds of one method, and a multirun may have more


def piece(learner: MetaLearner, device: torch.device) -> str | None:
    """The method that is compiled for training on `device`, None if none is worth it."""
    graphs = learner.one_graph and device.type == "cuda" and learner.micro_batch_size is None
    return "losses" if graphs else learner.repeated


def wanted(learner: MetaLearner, cfg: DictConfig, device: torch.device) -> bool:
    choice, name = cfg.trainer.compile, piece(learner, device)
    if choice is True and name is None:
        which = f"method={cfg.method.name} with backbone={cfg.backbone.name}"
        raise UserError(f"trainer.compile=true: {which} names no part that pays, choose auto or false")
    steps = cfg.trainer.max_steps * (getattr(learner, learner.steps_setting) if learner.steps_setting else 1)
    if choice == "auto" and (name == "losses" or recordable(learner, cfg, device)):
        if (
            name == "losses" and cfg.backbone.name == "conv4" and cfg.trainer.max_steps >= 10_000
        ):  # repays half a minute
            faster = (
                "trainer.compile=true trainer.precision=tf32 took half the time on images, by CUDA graphs"
            )
            print(faster, file=sys.stderr)
        return False
    if not choice or name is None or (choice == "auto" and steps < LONG):
        return False
    if why := no_compiler(device):
        if choice is True:
            raise UserError(f"trainer.compile=true: torch cannot compile here, choose auto or false ({why})")
        print(
            f"trains without compiling, which would be faster: torch cannot compile here ({why})",
            file=sys.stderr,
        )
    return not why


def no_compiler(device: torch.device) -> str:
    """Why torch cannot compile for `device`, "" if it can: tried on a line of code."""
    probe: Callable[[torch.Tensor], Any] = torch.compile(lambda x: x.sin() + 1, dynamic=False)
    try:
        probe(torch.zeros(8, device=device))
    except Exception as error:
        return brief(error, 100)
    return ""
