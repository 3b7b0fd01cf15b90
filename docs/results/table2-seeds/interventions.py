"""OP-LSTM with one change of its initial weights; all others are those of the same seed without it.

PYTHONPATH=docs/results/table2-seeds python train.py method=oplstm method._target_=interventions.StillHidden …
"""

from typing import Any

import torch

from fewshot.methods import OPLSTM


class StillHidden(OPLSTM):
    """The hidden layers' first updates are zero."""

    pure = True
    factor = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cell = self.hidden_lstm[-1]  # one unit, gates i, f, g, o; its first output is o tanh(i tanh(g))
        with torch.no_grad():
            for parameter in (cell.weight_ih, cell.bias_ih, cell.bias_hh):
                parameter[2:3] *= self.factor


class FlippedHidden(StillHidden):
    """The hidden layers' first updates have the opposite sign."""

    pure = True
    factor = -1.0
