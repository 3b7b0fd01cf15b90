"""The layers of the plain LSTM, one step at a time (Eqs. 1 to 6).

Shape suffixes: B tasks, M examples, D features or units, N outputs, R rows, which are tasks and examples.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.backbones.layers import lstm_cell

# each layer's h and c: (units, B, M), or (units, B, 1) if shared by examples
State = list[tuple[Tensor, Tensor]]
Initial = Sequence[tuple[Tensor, Tensor | None]]  # c = None is zero


class LSTMStack(nn.ModuleList):
    """LSTM layers of the given sizes; the first one reads an input next to a label."""

    def __init__(self, inputs: int, units: Sequence[int]) -> None:
        super().__init__(nn.LSTM(i, o, batch_first=True) for i, o in pairwise([inputs, *units]))
        self.units = list(units)

    def zero_state(self, x_BMD: Tensor) -> State:
        return [(x_BMD.new_zeros(units, len(x_BMD), 1),) * 2 for units in self.units]

    def input_gates(self, x_BMD: Tensor) -> Tensor:
        """What inputs without labels contribute to the first layer's gates, (4 units, B, M)."""
        layer: Any = self[0]
        return product(layer.weight_ih_l0[:, : x_BMD.shape[2]], x_BMD.permute(2, 0, 1), biases(layer))

    def label_gates(self, y_BMN: Tensor) -> Tensor:
        """What labels contribute to them."""
        layer: Any = self[0]
        return product(layer.weight_ih_l0[:, -y_BMN.shape[2] :], y_BMN.permute(2, 0, 1))

    def step(self, gates_DBM: Tensor, state: Initial | None) -> State:
        """The new state of all layers, from what the inputs contribute to the first layer's gates."""
        new: State = []
        layers: list[Any] = list(self)
        for number, layer in enumerate(layers):
            if number > 0:
                gates_DBM = product(layer.weight_ih_l0, new[-1][0], biases(layer))
            h, c = state[number] if state else (None, None)
            if h is not None:
                gates_DBM = gates_DBM + product(layer.weight_hh_l0, h)
            new.append(lstm_cell(gates_DBM, c))
        return new

    def read(self, sequence_BMD: Tensor, passes: int) -> State:
        """The state after reading a sequence several times, by torch's own LSTM."""
        state = [(sequence_BMD.new_zeros(1, len(sequence_BMD), units),) * 2 for units in self.units]
        for _ in range(passes):
            x_BMD, new = sequence_BMD, []
            for layer, initial in zip(self, state, strict=True):
                x_BMD, final = layer(x_BMD, initial)
                new.append(final)
            state = new
        return [(h.permute(2, 1, 0), c.permute(2, 1, 0)) for h, c in state]


def product(weight: Tensor, x_DBM: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b, (outputs, B, M)."""
    x_DR = x_DBM.flatten(1)
    y = weight @ x_DR if bias is None else torch.addmm(bias.unsqueeze(1), weight, x_DR)
    return y.unflatten(1, x_DBM.shape[1:])


def biases(layer: Any) -> Tensor:
    return layer.bias_ih_l0 + layer.bias_hh_l0
