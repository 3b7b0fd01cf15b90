"""MLP, FC net and Conv-4: one stack of blocks; their configs differ."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.base import Body, Weights, load
from fewshot.backbones.layers import batch_norm, conv, linear, loop_over_tasks, max_pool
from fewshot.backbones.task_kernel import winners
from fewshot.errors import UserError
from fewshot.options import UnitsOfLayers

Function = Callable[[Tensor], Tensor]


class Block(nn.Module):
    """Linear, 3×3 or 1×3 convolution, batch norm if `bn`, ReLU, and max-pooling after a convolution.

    Torch's default initialisation; the MLP's biases start at 0 (`zero_bias`).
    """

    def __init__(self, inputs: int, outputs: int, layer: str, bn: bool, zero_bias: bool) -> None:
        super().__init__()
        self.is_conv = layer != "linear"
        self.has_bn = bn
        self.layer: Callable[..., Tensor] = conv if self.is_conv else linear
        self.pool: Function = max_pool if self.is_conv else nn.Identity()
        size = (1, 3) if layer == "conv1d" else 3
        made: Any = nn.Conv2d(inputs, outputs, size) if self.is_conv else nn.Linear(inputs, outputs)
        self.weight: nn.Parameter = made.weight
        self.bias: nn.Parameter = made.bias
        if zero_bias:
            nn.init.zeros_(self.bias)
        if bn:
            self.bn_weight = nn.Parameter(torch.ones(outputs))
            self.bn_bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return self.activate(self.layer(x, self.weight, self.bias), reference)

    def normalise(self, u: Tensor, reference: int | None = None) -> Tensor:
        return batch_norm(u, self.bn_weight, self.bn_bias, reference) if self.has_bn else u

    def activate(self, u: Tensor, reference: int | None = None, transform: Function | None = None) -> Tensor:
        """What follows the weights: batch norm, ReLU, `transform`, pooling. `u` (B, M, outputs, ...)."""
        u = self.normalise(u, reference)
        if transform is not None:
            return self.pool(transform(F.relu(u)))
        return F.relu(self.pool(u))  # the same as pooling last, on a quarter of the pixels

    def winners(self, u: Tensor) -> Tensor | None:
        """The pixels of `u` that the pooling takes; None after a linear layer."""
        return winners(self.normalise(u.detach())) if self.is_conv else None

    def slope(self, u: Tensor) -> Tensor:
        """Batch norm's weight over the root of the squared deviations of `u`, (B, 1, outputs, ...)."""
        axes = (1, *range(3, u.dim()))
        squares = (u - u.mean(axes, keepdim=True)).square().sum(axes, keepdim=True)
        return self.bn_weight.view(squares.shape[2:]) * torch.rsqrt(squares + 1e-7)


class Blocks(Body, nn.ModuleList):
    """Blocks over inputs of shape `input_shape`: for convolutions (channels, height, width), in one dimension
    (channels, length), treated as images of height 1.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        layer: Annotated[Literal["linear", "conv", "conv1d"], "kind of the blocks"],
        widths: Annotated[UnitsOfLayers, "outputs, or feature maps, of each block"],
        bn: Annotated[Literal["none", "transductive", "support"], "batch norm statistics"] = "transductive",
        zero_bias: Annotated[bool, "biases start at 0"] = False,
        weights: Weights = None,
    ) -> None:
        inputs, pixels = math.prod(input_shape), 1
        if layer != "linear":
            axes = {"conv": "channels, height, width", "conv1d": "channels, length"}[layer]
            if len(input_shape) != len(axes.split()):
                raise UserError(
                    f"layer={layer} is for inputs ({axes}), not {(*input_shape,)}: try backbone=mlp"
                )
            inputs, pixels = input_shape[0], math.prod(size >> len(widths) for size in input_shape[1:])
        if pixels == 0:
            raise UserError(
                f"{len(widths)} blocks halve inputs {(*input_shape,)} as often: data.size is too small"
            )
        sizes = pairwise([inputs, *widths])
        super().__init__(Block(i, o, layer, bn != "none", zero_bias) for i, o in sizes)
        self.flat, self.bn, self.features = layer == "linear", bn, widths[-1] * pixels
        self.one_dimension = layer == "conv1d"
        load(self, weights)

    def __iter__(self) -> Iterator[Block]:
        return super().__iter__()  # type: ignore[return-value]

    def as_input(self, x: Tensor) -> Tensor:
        return x.unsqueeze(3) if self.one_dimension else super().as_input(x)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        if not self.flat and len(x) > 1 and loop_over_tasks(x) and next(iter(self)).weight.dim() == 4:
            return torch.cat([self(task, reference) for task in x.split(1)])
        x = self.as_input(x)
        for block in self:
            x = block(x, reference)
        return x.flatten(2)
