"""MLP, FC net and Conv-4: one stack of blocks; their configs differ."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.base import Body, Weights
from fewshot.backbones.layers import batch_norm, conv, fold_tasks, linear, loop_over_tasks, unfold_tasks
from fewshot.backbones.weights import load
from fewshot.errors import UserError
from fewshot.options import UnitsOfLayers

Statistics = Literal["none", "transductive", "support"]


class Block(nn.Module):
    """Linear or 3×3 convolution, batch norm if `bn`, ReLU, and 2×2 max-pooling after a convolution.

    Torch's default initialisation; the MLP's biases start at 0 (`zero_bias`).
    """

    def __init__(self, inputs: int, outputs: int, layer: str, bn: bool, zero_bias: bool) -> None:
        super().__init__()
        made = nn.Conv2d(inputs, outputs, 3) if layer == "conv" else nn.Linear(inputs, outputs)
        assert made.bias is not None
        self.weight = made.weight
        self.bias = nn.Parameter(torch.zeros_like(made.bias) if zero_bias else made.bias)
        self.is_conv, self.has_bn = layer == "conv", bn
        if bn:
            self.bn_weight = nn.Parameter(torch.ones(outputs))
            self.bn_bias = nn.Parameter(torch.zeros(outputs))

    def activate(
        self, u: Tensor, reference: int | None = None, transform: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """What follows the weights: batch norm, ReLU, `transform`, pooling. `u` (B, M, outputs, ...)."""
        if self.has_bn:
            u = batch_norm(u, self.bn_weight, self.bn_bias, reference)
        if transform is not None:
            return self.pool(transform(F.relu(u)))
        return F.relu(self.pool(u))  # the same as pooling last, on a quarter of the pixels

    def pool(self, x: Tensor) -> Tensor:
        return unfold_tasks(F.max_pool2d(fold_tasks(x), 2), len(x)) if self.is_conv else x

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return self.activate((conv if self.is_conv else linear)(x, self.weight, self.bias), reference)


class Blocks(Body, nn.ModuleList):
    """Blocks over inputs of shape `input_shape`, (channels, height, width) for convolutions.

    `bn` is "transductive" (support and query set are each normalised by their own statistics, as in the
    paper), "support" (both by the support set's) or "none".
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        layer: Annotated[Literal["linear", "conv"], "kind of the blocks"],
        widths: Annotated[UnitsOfLayers, "outputs, or feature maps, of each block"],
        bn: Annotated[Statistics, "whose statistics normalise"] = "transductive",
        zero_bias: Annotated[bool, "biases start at 0"] = False,
        weights: Weights = None,
    ) -> None:
        if layer == "conv" and len(input_shape) != 3:
            raise UserError("layer=conv is for images: choose backbone=mlp")
        if layer == "conv" and min(input_shape[1:]) >> len(widths) < 1:
            raise UserError(f"{len(widths)} blocks halve an image as often: data.size is too small")
        pixels = math.prod(size >> len(widths) for size in input_shape[1:]) if layer == "conv" else 1
        sizes = [input_shape[0] if layer == "conv" else math.prod(input_shape), *widths]
        super().__init__(Block(i, o, layer, bn != "none", zero_bias) for i, o in pairwise(sizes))
        self.flat, self.bn = layer == "linear", bn
        self.features = widths[-1] * pixels
        if weights is not None:
            load(self, weights)

    def __iter__(self) -> Iterator[Block]:
        return super().__iter__()  # type: ignore[return-value]

    def shape(self, x: Tensor) -> Tensor:
        """Examples as the first block takes them: flat for linear blocks."""
        return x.flatten(2) if self.flat else x

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        if not self.flat and len(x) > 1 and loop_over_tasks(x) and next(iter(self)).weight.dim() == 4:
            return torch.cat([self(task, reference) for task in x.split(1)])
        x = self.shape(x)
        for block in self:
            x = block(x, reference)
        return x.flatten(2)
