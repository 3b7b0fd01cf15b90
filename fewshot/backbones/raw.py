"""No network at all: features are the inputs."""

import math
from collections.abc import Sequence

from torch import Tensor

from fewshot.backbones.base import Body


class Raw(Body):
    """The inputs themselves, flat."""

    flat = True

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.features = math.prod(input_shape)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return x.flatten(2)
