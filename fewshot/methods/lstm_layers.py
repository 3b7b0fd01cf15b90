"""LSTM layers one step at a time (Eqs. 1 to 6): the plain LSTM's, and OP-LSTM's coordinate-wise ones.

Examples are on the last axes, so that gates are contiguous. Shape suffixes: D features or units, B tasks,
M examples, N outputs, O nodes.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

State = list[tuple[Tensor, Tensor]]  # each layer's h and c, (units, ...)


class LSTMStack(nn.ModuleList):
    """Layers of the given sizes for inputs beside labels; h and c are (D, B, M), or (D, B, 1) if shared."""

    def __init__(self, inputs: int, units: Sequence[int]) -> None:
        super().__init__(nn.LSTM(i, o, batch_first=True) for i, o in pairwise([inputs, *units]))

    def input_gates(self, x_BMD: Tensor) -> Tensor:
        """What inputs without labels contribute to the first layer's gates, (4 units, B, M)."""
        return input_gates(self[0], x_BMD.permute(2, 0, 1))

    def label_gates(self, y_BMN: Tensor) -> Tensor:
        """What labels contribute to them."""
        weight, *_ = self[0].parameters()
        return product(weight[:, -y_BMN.shape[2] :], y_BMN.permute(2, 0, 1))

    def read(self, sequence_BMD: Tensor, passes: int) -> State:
        """The state after reading a sequence several times, by torch's own LSTM."""
        state: list[Any] = [None] * len(self)
        for _ in range(passes):
            x_BMD = sequence_BMD
            for number, layer in enumerate(self):
                x_BMD, state[number] = layer(x_BMD, state[number])
        return [(h.permute(2, 1, 0), c.permute(2, 1, 0)) for h, c in state]


class CoordinateLSTM(nn.ModuleList):
    """Cells for all nodes of a layer (Eq. 15): they read two numbers a node, z = [a, m], and write one, h."""

    def __init__(self, units: Sequence[int]) -> None:
        super().__init__(nn.LSTMCell(i, o) for i, o in pairwise([2, *units]))

    def forward(self, a_BMO: Tensor, m_BMO: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The new h (B, M, O), and each cell's h and c, (D, B * M * O)."""
        z = torch.stack([a_BMO, m_BMO]).flatten(1)
        new = step(self, input_gates(self[0], z), state)
        return new[-1][0].view(a_BMO.shape), new


def step(layers: nn.ModuleList, gates: Tensor, state: State | None, keep_cell: bool = True) -> State:
    """The new h and c of all layers, from the first layer's `input_gates` and the state before; None is zero.

    Without `keep_cell` c starts from zero.
    """
    new: State = []
    for number, layer in enumerate(layers):
        if number > 0:
            gates = input_gates(layer, new[-1][0])
        c = None
        if state:
            h, c = state[number]
            _, weight_hh, *_ = layer.parameters()
            gates = torch.addmm(gates, weight_hh, h) if h.dim() == 2 else gates + product(weight_hh, h)
        new.append(cell(gates, c if keep_cell else None))
    return new


def input_gates(layer: nn.Module, x: Tensor) -> Tensor:
    """What inputs contribute to the gates of an nn.LSTM or nn.LSTMCell; without labels if `x` has none."""
    weight, _, bias_ih, bias_hh = layer.parameters()
    return product(weight[:, : len(x)], x, bias_ih + bias_hh)


def cell(gates: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """Eqs. 1 to 6 after the matrix products: gates (4 units, ...) in torch's order → h and c."""
    i, f, g, o = gates.chunk(4)
    new = i.sigmoid() * g.tanh()
    if c is not None:
        new = torch.addcmul(new, f.sigmoid(), c)
    return o.sigmoid() * new.tanh(), new


def pooled(state: State, shape: torch.Size) -> State:
    """Eq. 16: each h and c replaced by its mean over the examples, and of a convolution over the windows.

    `shape` is (B, M, O), or (B, M, O, windows).
    """

    def pool(rows_DR: Tensor) -> Tensor:
        values = rows_DR.view(-1, *shape)
        means = values.mean((2, *range(4, values.dim())), keepdim=True)
        return means.expand_as(values).reshape(rows_DR.shape)

    return [(pool(h), pool(c)) for h, c in state]


def product(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b along the first axis of `x`."""
    rows = x.flatten(1)
    y = weight @ rows if bias is None else torch.addmm(bias.unsqueeze(1), weight, rows)
    return y.unflatten(1, x.shape[1:])
