"""OP-LSTM with one change of its initial weights; all others are those of the same seed without it.

PYTHONPATH=docs/results/table2-seeds python train.py method=oplstm method._target_=interventions.StillHidden …
"""

from typing import Any

import torch
from torch import Tensor

from fewshot.methods import OPLSTM


def candidate_gate(learner: OPLSTM) -> list[Tensor]:
    """What computes g of the hidden layers' last cell, whose first output is h = o tanh(i tanh(g))."""
    cell = learner.hidden_lstm[-1]  # one unit, its gates in the order i, f, g, o
    return [p[2:3] for p in (cell.weight_ih, cell.bias_ih, cell.bias_hh)]


class StillHidden(OPLSTM):
    """The hidden layers' first updates are zero."""

    pure = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            for part in candidate_gate(self):
                part.zero_()


class FlippedHidden(OPLSTM):
    """The hidden layers' first updates have the opposite sign."""

    pure = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            for part in candidate_gate(self):
                part.neg_()
