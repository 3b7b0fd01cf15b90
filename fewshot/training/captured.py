"""A GPU's update in two launches: a learner's losses and their gradient, captured once as CUDA graphs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from fewshot.episodes import Episode
from fewshot.errors import brief
from fewshot.methods.base import MetaLearner


class Losses(nn.Module):
    """A learner's `losses` as torch captures them: a function of tensors, with the parameters of a module."""

    def __init__(self, learner: MetaLearner, losses: Callable[[Episode], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.learner, self.losses = learner, losses

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        losses, predictions = self.losses(Episode(*parts))
        return losses, predictions.detach()


def recordable(learner: MetaLearner, cfg: DictConfig, device: torch.device) -> bool:
    """Whether every update is the same operations, by one process, on a GPU.

    A derived learner has to declare `replayable` itself.
    """
    same = vars(type(learner)).get("replayable", False) and learner.micro_batch_size is None
    one_process = cfg.trainer.devices == 1 and "mixed" not in cfg.trainer.precision
    return same and one_process and device.type == "cuda"


@contextmanager
def captured(learner: MetaLearner) -> Iterator[None]:
    """Inside, training replays the learner's `losses`, by the same kernels, captured with the first episode.

    A step's kernels are then launched at once, where Python would launch each. What cannot be captured is
    trained as it is. `learner.captured` says what happened.
    """
    module, began = Losses(learner, learner.losses), False
    learner.captured = False

    def losses(episode: Episode) -> tuple[Tensor, Tensor]:
        nonlocal began
        if not began:
            began = True
            learner.captured = record(module, episode)
        losses, predictions = module(*episode)
        return losses.clone(), predictions.clone()  # the next update writes to the same memory

    learner.losses = losses  # type: ignore[method-assign]
    try:
        yield
    finally:
        del learner.losses


def record(module: Losses, episode: Episode) -> bool:
    """Makes the module replay, for episodes of this shape; False where torch cannot capture it."""
    try:
        torch.cuda.make_graphed_callables(module, tuple(x.clone() for x in episode), allow_unused_input=True)
    except RuntimeError as error:
        print(f"trains without CUDA graphs, which torch cannot record ({brief(error, 100)})", file=sys.stderr)
        return False
    return True
