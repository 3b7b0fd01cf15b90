"""Meta-SGD (Li et al. 2017): `python train.py method=metasgd`."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fewshot.methods.base import Lr, Task
from fewshot.methods.maml import MAML
from fewshot.options import Few, Positive


class MetaSGD(MAML):
    """MAML that also learns a step size α for each weight: θ' = θ - α ∘ ∇L_support(θ) (their Eq. 1)."""

    pure = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        inner_lr: Annotated[Positive, "initial step size"],
        inner_steps: Annotated[Few, "inner steps in training, validation and test"] = 1,
    ) -> None:
        super().__init__(task, backbone, lr, inner_lr, inner_steps, eval_inner_steps=inner_steps)
        self.step_sizes = nn.ParameterList(torch.full_like(p, inner_lr) for p in self.net.parameters())
        self.names = [name for name, _ in self.net.named_parameters()]

    def step_size(self, name: str) -> Tensor:
        return self.step_sizes[self.names.index(name)]
