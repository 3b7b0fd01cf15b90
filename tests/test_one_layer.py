"""What one recurrent layer with a linear read-out can learn from a support set; docs/section6.md."""

import pytest
import torch
from torch import nn

from fewshot.methods.base import Task
from fewshot.methods.lstm import PlainLSTM
from tests.conftest import MLP


def episodes():
    """2-way 1-shot on x = ±1 with y = s x: the support set in both orders, a query x and its label s x."""
    for s in (1.0, -1.0):
        for first in (1.0, -1.0):
            for x in (1.0, -1.0):
                yield torch.tensor([[first, s * first], [-first, -s * first]]), x, s * x


def test_one_lstm_layer_with_a_linear_read_out_suffices():
    """c sums i g = σ(k x) tanh(k y): the label of x = 1. Gates σ(±k x) choose its sign for the query."""
    options = {"support_mode": "sequence", "inputs": "target", "passes": 1, "first_labels": True}
    options |= {"hidden": [2], "pool_cell": False, "query_cell": True}
    learner = PlainLSTM(Task((1,), 1, True), MLP, 1e-3, **options).double()
    k = 20.0
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
        lstm = learner.lstm[0]
        rows = lstm.weight_ih_l0.view(4, 2, 2)  # gates i, f, g, o; units; inputs x, y
        rows[0, :, 0] = k
        lstm.bias_ih_l0.view(4, 2)[1] = k
        rows[2, :, 1] = k
        rows[3, :, 0] = torch.tensor([k, -k])
        learner.head.weight.copy_(torch.tensor([[1.0, -1.0]]))
        for support, x, label in episodes():
            support_x, support_y = support[None, :, :1].double(), support[None, :, 1:].double()
            answer = learner.eval()(support_x, support_y, torch.tensor([[[x]]]).double()).item()
            assert answer == pytest.approx(label * torch.tanh(torch.tensor(1.0)).item(), abs=1e-6)


def test_two_tanh_units_with_a_linear_read_out_suffice():
    """The counterexample to "a single-layer RNN cannot": every answer is right with a margin of 1."""
    rnn = nn.RNN(2, 2, batch_first=True)
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.tensor([[-2.0, 1.0], [2.0, -2.0]]))
        rnn.weight_hh_l0.copy_(torch.tensor([[2.0, 2.0], [-1.0, -1.0]]))
        rnn.bias_ih_l0.copy_(torch.tensor([0.0, 3.0]))
        rnn.bias_hh_l0.zero_()
        for support, x, label in episodes():
            walk = torch.cat([support, torch.tensor([[x, 0.0]])])
            answer = 3 * rnn(walk[None])[0][0, -1].sum() - 2
            assert answer * label > 1


def test_a_linear_recurrence_cannot():
    """Its answer is a term of the support set plus one of the query: swapped labels cannot swap the answers.

    With tanh around the same weights the answers' difference does depend on the labels.
    """
    a, b, v = torch.randn(5, 5).double(), torch.randn(5, 2).double(), torch.randn(5).double()

    def spread(around):
        """How much the difference between the answers to x = 1 and to x = -1 varies with the support set."""

        def answer(support, x):
            h = torch.zeros(5).double()
            for step in torch.cat([support, torch.tensor([[x, 0.0]])]).double():
                h = around(a @ h + b @ step + 0.1)
            return v @ h

        gaps = torch.stack([answer(s, 1.0) - answer(s, -1.0) for s, x, _ in episodes() if x == 1.0])
        return float(gaps.max() - gaps.min())

    assert spread(torch.clone) < 1e-10
    assert spread(torch.tanh) > 1e-3
