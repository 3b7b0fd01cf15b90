"""Reptile (Nichol et al. 2018): `python train.py method=reptile`."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from fewshot.backbones.task_weight import TaskWeight
from fewshot.episodes import Episode
from fewshot.methods.base import Lr, Task
from fewshot.methods.losses import nan_unless_finite, with_gradients
from fewshot.methods.maml import MAML
from fewshot.options import Few, Positive


class Reptile(MAML):
    """Moves the initialisation θ towards the weights θ' that steps on the support set lead to.

    Its gradient is Σ over tasks of (θ - θ') / α, the sum of the inner gradients, which Adam follows. No
    gradient is taken through the inner loop, and training does not learn from queries.
    """

    pure = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        inner_lr: Annotated[Positive, "step size of the inner loop"],
        inner_steps: Annotated[Few, "inner steps in training; one is training on all tasks together"],
        eval_inner_steps: Annotated[Few, "inner steps in validation and test"],
    ) -> None:
        super().__init__(task, backbone, lr, inner_lr, inner_steps, eval_inner_steps)

    def losses(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Losses and predictions after the last step, with Reptile's gradient."""
        with torch.no_grad():
            weights = self.adapt(episode.support_x, episode.support_y)
            predictions = self.predict_queries(weights, episode.support_x, episode.query_x)
        parameters, gradients = [], []
        for name, parameter in self.net.named_parameters():
            adapted = weights[name]
            if isinstance(adapted, TaskWeight):
                adapted = adapted.materialize(len(predictions))
            parameters.append(parameter)
            gradients.append((parameter.detach() - adapted).sum(0) / self.inner_lr)
        losses = nan_unless_finite(self.task_losses(predictions, episode.query_y), predictions)
        return with_gradients(losses, parameters, gradients), predictions
