"""OP-LSTM with Warp-MAML's warp layers, left open in section 7: `python train.py method=warp_oplstm`."""

from typing import Any

import torch
from torch import Tensor, nn

from fewshot.errors import UserError
from fewshot.methods.lstm_layers import State
from fewshot.methods.oplstm import OPLSTM, Weights


class WarpOPLSTM(OPLSTM):
    """OP-LSTM with a linear layer φ, a warp, after every block but the first (Flennerhag et al. 2020).

    The updates leave warps as they are, and messages pass a warp by its transpose. Warps begin as the
    identity: before training the learner is OP-LSTM.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if len(self.hidden) < 2 or self.preactivation:
            layers = "choose backbone=fc, or conv4 with method.layers=all, and method.preactivation=false"
            raise UserError(f"warps lie between adapted layers, after their activation: {layers}")
        first, *others = self.hidden
        self.warps = nn.ModuleList(Warp(len(block.bias), block.weight) for block in others)
        self.hidden = [first, *(layer for pair in zip(others, self.warps, strict=True) for layer in pair)]
        self.numbers = range(2, len(self.hidden), 2)  # of the warps among all layers

    def lstm(self, layer: int) -> Any:
        """Warps have none: messages are passed on."""
        return self.pass_on if layer in self.numbers else super().lstm(layer)

    def pass_on(self, _: Tensor, message: Tensor, __: Any) -> tuple[Tensor, State]:
        return message, []

    def outer_product(self, weights: Weights, layer: int, h: Tensor, a: Tensor, u: Tensor) -> Any:
        return None if layer in self.numbers else super().outer_product(weights, layer, h, a, u)

    def updated(self, weights: Weights, updates: list[Any]) -> Weights:
        own = [layer for layer in range(len(weights)) if layer not in self.numbers]
        moved = iter(super().updated([weights[layer] for layer in own], [updates[layer] for layer in own]))
        return [next(moved) if layer in own else weights[layer] for layer in range(len(weights))]


class Warp(nn.Module):
    """A matrix, or kernels of the size of `like`'s, with `width` inputs and outputs."""

    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__()
        self.is_conv = like.dim() == 4
        weight = torch.zeros(width, width, *like.shape[2:])
        self.weight = nn.Parameter(nn.init.dirac_(weight) if self.is_conv else nn.init.eye_(weight))
        self.bias = nn.Parameter(torch.zeros(width))

    def activate(self, u: Tensor, reference: int | None = None) -> Tensor:
        return u

    def winners(self, u: Tensor) -> None:
        """None: no pooling follows."""
