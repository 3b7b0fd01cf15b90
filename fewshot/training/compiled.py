"""`trainer.compile`: training by compiled code, or by CUDA graphs, which launch all kernels of an update."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from fewshot.episodes import Episode
from fewshot.errors import UserError, brief
from fewshot.methods import MetaLearner

# passes or inner steps: each saves .3 ms or more on a CPU, and compiling takes half a minute or more
LONG = 150_000


@contextmanager
def compiled(learner: MetaLearner, cfg: DictConfig, device: torch.device) -> Iterator[None]:
    """Inside, training calls the compiled or captured method that `to_compile` names; validation does not.

    What `trainer.compile=auto` cannot compile or capture is trained as it is. `learner.compiled` and
    `learner.captured` say what happened.

    Raises:
        UserError: `trainer.compile=true`, and there is nothing to compile, or torch cannot.
    """
    part, captures = to_compile(learner, cfg, device)
    name = part or "losses"
    learner.compiled, learner.captured = part is not None, False
    if part is not None:
        print(f"compiling {name}: half a minute or more the first time (trainer.compile)", file=sys.stderr)
        setattr(learner, name, quick(learner, name, cfg))
    elif captures:
        setattr(learner, name, Captured(learner).replay)
    try:
        with torch._dynamo.config.patch(allow_rnn=True):  # a learner may read the weights of a torch.nn.LSTM
            yield
    finally:
        vars(learner).pop(name, None)
        torch._dynamo.reset()  # it takes eight variants of one method, and a multirun may have more


def to_compile(learner: MetaLearner, cfg: DictConfig, device: torch.device) -> tuple[str | None, bool]:
    """The method to compile for training, if any, and whether to capture the `losses` as they are instead."""
    choice, part = cfg.trainer.compile, learner.repeated
    on_gpu = device.type == "cuda" and learner.micro_batch_size is None
    if learner.one_graph and on_gpu:
        part = "losses"
    if choice is True and part is None:
        which = f"method={cfg.method.name} with backbone={cfg.backbone.name}"
        raise UserError(f"trainer.compile=true: {which} has no part worth compiling, choose auto or false")
    same = vars(type(learner)).get("replayable", False)  # not inherited: a derived learner declares it itself
    alone = cfg.trainer.devices == 1 and "mixed" not in cfg.trainer.precision
    captures = choice == "auto" and same and on_gpu and alone
    steps = cfg.trainer.max_steps * (getattr(learner, learner.steps_setting) if learner.steps_setting else 1)
    pays = choice == "auto" and part != "losses" and not captures and steps >= LONG
    return part if choice is True or pays else None, captures


def quick(learner: MetaLearner, name: str, cfg: DictConfig) -> Callable[..., Any]:
    """A method of the learner, compiled in training and as it is elsewhere; `losses` as CUDA graphs."""
    plain, graphs = getattr(learner, name), name == "losses"
    # channels last, which tensor cores take: torch has it off where no layer has more than 64
    options: Any = {"triton.cudagraphs": True, "force_layout_optimization": True} if graphs else None
    fast = torch.compile(plain, fullgraph=True, dynamic=False, options=options)

    def call(*args: Any) -> Any:
        if not learner.compiled or not torch.is_grad_enabled():
            return plain(*args)
        try:
            found = fast(*args) if graphs else fast(*learner.alike(*args))
            return tuple(part.clone() for part in found) if graphs else found
        except TorchDynamoException as error:
            reason = f"torch cannot compile {name} here ({brief(error, 100)})"
            if cfg.trainer.compile is True:
                raise UserError(f"trainer.compile=true: {reason}, choose auto or false") from error
            learner.compiled = False
            print(f"trains without compiling: {reason}", file=sys.stderr)
            return plain(*args)

    return call


class Captured(nn.Module):
    """A learner's `losses` as a module of tensors, which CUDA graphs of the first episode replay."""

    def __init__(self, learner: MetaLearner) -> None:
        super().__init__()
        self.learner, self.losses, self.began = learner, learner.losses, False

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        losses, predictions = self.losses(Episode(*parts))
        return losses, predictions.detach()

    def replay(self, episode: Episode) -> tuple[Tensor, Tensor]:
        if not self.began:
            self.began = True
            try:
                example = tuple(x.clone() for x in episode)
                torch.cuda.make_graphed_callables(self, example, allow_unused_input=True)
                self.learner.captured = True
            except RuntimeError as error:
                print(
                    f"trains without CUDA graphs: torch cannot capture ({brief(error, 100)})", file=sys.stderr
                )
        losses, predictions = self(*episode)
        return losses.clone(), predictions.clone()  # the next update writes to the same memory
