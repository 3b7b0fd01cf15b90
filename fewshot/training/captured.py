"""A GPU's update in two launches: a learner's losses and their gradient, recorded once as CUDA graphs and replayed."""

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
    """A learner's `losses` as torch records them: of tensors, with the parameters of a module."""

    def __init__(self, learner: MetaLearner, losses: Callable[[Episode], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.learner, self.losses = learner, losses

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        losses, predictions = self.losses(Episode(*parts))
        return losses, predictions.detach()


def recordable(learner: MetaLearner, cfg: DictConfig, device: torch.device) -> bool:
    """Whether each update is the same operations, by one process, for a GPU: a derived learner says so anew."""
    whole = (
        learner.micro_batch_size is None and cfg.trainer.devices == 1 and "mixed" not in cfg.trainer.precision
    )
    return vars(type(learner)).get("replayable", False) and whole and device.type == "cuda"


@contextmanager
def captured(learner: MetaLearner) -> Iterator[None]:
    """Training inside replays the learner's `losses`, by the same kernels; they are recorded with the first episode.

    A step's kernels are then launched at once, where Python would launch each. What cannot be recorded is trained as it
    is, which a line says and `learner.captured` tells.
    """
    module, began = Losses(learner, learner.losses), False
    learner.captured = False

    def losses(episode: Episode) -> tuple[Tensor, Tensor]:
        nonlocal began
        if not began:
            began = True
            learner.captured = record(module, episode)
        losses, predictions = module(*episode)
        return losses.clone(), predictions.clone()  # the next update's come into the same memory

    learner.losses = losses  # type: ignore[method-assign]
    try:
        yield
    finally:
        del learner.losses


def record(module: Losses, episode: Episode) -> bool:
    """Whether the module replays from now on, for episodes of this shape: what torch cannot record does not."""
    try:
        torch.cuda.make_graphed_callables(module, tuple(x.clone() for x in episode), allow_unused_input=True)
    except RuntimeError as error:
        print(f"trains without CUDA graphs, which torch cannot record ({brief(error, 100)})", file=sys.stderr)
        return False
    return True
