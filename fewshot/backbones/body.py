"""The networks under the learners: MLP, FC net and Conv-4 are one stack of blocks, told apart by their config."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.layers import apart, batch_norm, conv, linear, together


class Block(nn.Module):
    """Linear or 3×3 convolution, batch norm unless `bn` is False, ReLU, and 2×2 max-pooling after a convolution.

    Torch's default initialisation; the MLP's biases start at 0 (`zero_bias`).
    """

    def __init__(self, inputs: int, outputs: int, layer: str, bn: bool, zero_bias: bool) -> None:
        super().__init__()
        made = nn.Conv2d(inputs, outputs, 3) if layer == "conv" else nn.Linear(inputs, outputs)
        assert made.bias is not None
        self.weight, self.bias = made.weight, nn.Parameter(torch.zeros_like(made.bias) if zero_bias else made.bias)
        self.is_conv = layer == "conv"
        self.has_bn = bn
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
        return F.relu(self.pool(u))  # gives the same as pooling last, and leaves ReLU a quarter of the pixels

    def pool(self, x: Tensor) -> Tensor:
        return apart(F.max_pool2d(together(x), 2), len(x)) if self.is_conv else x

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return self.activate((conv if self.is_conv else linear)(x, self.weight, self.bias), reference)


class Body(nn.ModuleList):
    """Blocks of the given widths over inputs of shape `input_shape`; `features` is the size of its flat output.

    Args:
        input_shape: shape of one example, (channels, height, width) for convolutions.
        layer: "linear" or "conv".
        widths: outputs of each block (feature maps for convolutions).
        bn: "none"; "transductive" (support and query set are each normalised by their own statistics, as in the
            paper); or "support" (the query set by the support set's).
        zero_bias: start biases at 0.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        layer: str,
        widths: Sequence[int],
        bn: str,
        zero_bias: bool,
    ) -> None:
        sizes = [input_shape[0] if layer == "conv" else math.prod(input_shape), *widths]
        super().__init__(Block(i, o, layer, bn != "none", zero_bias) for i, o in pairwise(sizes))
        self.layer, self.bn = layer, bn
        pixels = math.prod(size >> len(widths) for size in input_shape[1:]) if layer == "conv" else 1
        self.features = widths[-1] * pixels

    def __iter__(self) -> Iterator[Block]:
        return super().__iter__()  # type: ignore[return-value]

    def shape(self, x: Tensor) -> Tensor:
        """Examples as the first block takes them: flat for linear blocks."""
        return x if self.layer == "conv" else x.flatten(2)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """Flat features (B, M, features) of examples (B, M, *input); for `reference` see `batch_norm`."""
        x = self.shape(x)
        for block in self:
            x = block(x, reference)
        return x.flatten(2)


class Network(nn.Module):
    """A body and a linear head, (B, M, *input) → (B, M, outputs)."""

    def __init__(self, body: Body, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.features, outputs)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return linear(self.body(x, reference), self.head.weight, self.head.bias)
