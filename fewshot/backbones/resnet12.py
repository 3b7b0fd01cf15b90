"""ResNet-12, the field's second standard backbone: `python train.py data=mini backbone=resnet12`.

As in MetaOptNet (Lee et al. 2019), but without DropBlock, with which two passes over one support set would
differ. The paper does not use it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fewshot.backbones.base import Body, Weights, load
from fewshot.backbones.layers import batch_norm, conv, max_pool
from fewshot.errors import UserError
from fewshot.options import Units

SLOPE = 0.1  # of the leaky ReLU


class ResNet12(Body):
    """Four residual blocks of three convolutions, each halving the image, then global average pooling."""

    def __init__(
        self,
        input_shape: Sequence[int],
        widths: Annotated[Sequence[Units], Field(min_length=4, max_length=4), "feature maps of each block"],
        bn: Annotated[Literal["transductive", "support"], "batch norm statistics"] = "transductive",
        weights: Weights = None,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 16:
            raise UserError("ResNet-12 is for images of 16×16 pixels and more")
        self.blocks = nn.ModuleList(Residual(i, o) for i, o in pairwise([input_shape[0], *widths]))
        self.bn, self.features = bn, widths[-1]
        load(self, weights)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, reference)
        return x.mean((3, 4))


class Residual(nn.Module):
    """Three 3×3 convolutions and a 1×1 shortcut, each with batch norm; leaky ReLU and 2×2 max-pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNorm(i, outputs, 3) for i in (inputs, outputs, outputs))
        self.shortcut = ConvNorm(inputs, outputs, 1)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        first, second, third = self.convs
        u = F.leaky_relu(first(x, reference), SLOPE)
        u = F.leaky_relu(second(u, reference), SLOPE)
        return max_pool(F.leaky_relu(third(u, reference) + self.shortcut(x, reference), SLOPE))


class ConvNorm(nn.Module):
    """A convolution without a bias, and batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, SLOPE, "fan_out", "leaky_relu")
        self.bn_weight = nn.Parameter(torch.ones(outputs))
        self.bn_bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return batch_norm(conv(x, self.weight), self.bn_weight, self.bn_bias, reference)
