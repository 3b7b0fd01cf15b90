"""OP-LSTM's coordinate-wise LSTM (Eqs. 15 and 16): one small LSTM for all nodes of a layer.

Shape suffixes: B tasks, M support examples, O nodes, D units, R rows, which are tasks, examples and nodes.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fewshot.backbones.layers import lstm_cell

State = list[tuple[Tensor, Tensor]]  # each cell's h and c, (D, R)


class CoordinateLSTM(nn.ModuleList):
    """A stack of LSTM cells that reads two numbers per node, z = [a, m], and writes one, h."""

    def __init__(self, units: Sequence[int]) -> None:
        super().__init__(nn.LSTMCell(inputs, outputs) for inputs, outputs in pairwise([2, *units]))

    def forward(self, a_BMO: Tensor, m_BMO: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Eq. 15: the new h (B, M, O) and the cells' states; a state of None is zero.

        Rows are the last axis: this makes the gates contiguous and takes half of nn.LSTMCell's time on a CPU.
        """
        x_DR = torch.stack([a_BMO, m_BMO]).flatten(1)
        new = []
        for number, cell in enumerate(self):
            assert isinstance(cell, nn.LSTMCell)
            gates = torch.addmm((cell.bias_ih + cell.bias_hh).unsqueeze(1), cell.weight_ih, x_DR)
            h, c = state[number] if state else (None, None)
            if h is not None:
                gates = torch.addmm(gates, cell.weight_hh, h)
            new.append(lstm_cell(gates, c))
            x_DR = new[-1][0]
        return x_DR.view(a_BMO.shape), new

    def zero_state(self, like: Tensor, rows: int) -> State:
        """A state of zeros with gradients, as a pass leaves one, of the type of `like`."""
        state: State = []
        for cell in self:
            assert isinstance(cell, nn.LSTMCell)
            h, c = (like.new_zeros(cell.hidden_size, rows, requires_grad=True) for _ in "hc")
            state.append((h, c))
        return state


def pooled(state: State, shape: torch.Size) -> State:
    """Eq. 16: each h and c replaced by its mean over the examples; `shape` is (B, M, O)."""

    def pool(rows_DR: Tensor) -> Tensor:
        values = rows_DR.view(-1, *shape)
        return values.mean(2, keepdim=True).expand_as(values).reshape(rows_DR.shape)

    return [(pool(h), pool(c)) for h, c in state]
