"""Section 6 and the claims about single-layer networks, as tests; docs/section6.md has the algebra."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.episodes import Episode
from fewshot.methods.base import Task
from fewshot.methods.lstm import PlainLSTM
from fewshot.methods.maml import MAML
from fewshot.methods.oplstm import OPLSTM
from tests.conftest import CONV, RELEASED, episode, whole
from tests.conftest import MAML as MAML_OPTIONS
from tests.conftest import OPLSTM as OPTIONS

ETA = 0.3
NO_BN = {"layer": "linear", "widths": [6, 5], "bn": "none", "zero_bias": False}
BN = NO_BN | {"bn": "transductive"}


def build(kind: type[OPLSTM], regression: bool, backbone: dict[str, Any] = NO_BN, **options: Any) -> Any:
    shape = (2, 8, 8) if backbone is CONV else (4,)
    task = Task(shape, 2 if regression else 3, regression)
    published = OPTIONS | RELEASED | {"normalisation": "none", "gamma": None, "softmax": True}
    learner = kind(task, backbone, **published | options).double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return learner


def draw(learner: OPLSTM) -> Episode:
    """An episode whose real targets have as many numbers as the learner has outputs."""
    batch = episode(learner)
    if not learner.task.regression:
        return batch
    return batch._replace(support_y=torch.randn(*batch.support_y.shape[:2], learner.task.outputs).double())


def final_weights(learner: OPLSTM, support_x: Tensor, support_y: Tensor) -> list[Tensor]:
    learnt = learner.adapt(learner.body.shape(support_x), learner.targets(support_y))
    return [weight.materialize(len(support_x)).detach() for weight in learnt]


# ---------------------------------------------------------------- gradient descent
class Descent(OPLSTM):
    """OP-LSTM with the error signal for its coordinate LSTMs: h^L = -η (p - y), hidden h = m 1[a > 0]."""

    masked = True

    def lstm(self, layer: int) -> Any:
        def signal(a_BMO: Tensor, m_BMO: Tensor, state: None) -> tuple[Tensor, None]:
            if layer == len(self.hidden):
                slope = 2 / self.task.outputs if self.task.regression else 1.0  # of the mean squared error
                return -ETA * slope * (a_BMO - m_BMO), state
            return m_BMO * (a_BMO > 0) if self.masked else m_BMO, state

        return signal


class Unmasked(Descent):
    masked = False


def descend(learner: OPLSTM, x: Tensor, y: Tensor, steps: int) -> list[Tensor]:
    """One task: plain gradient steps of the weight matrices on the mean support loss; biases stay."""
    blocks = list(learner.body)
    weights = [layer.weight.detach() for layer in (*blocks, learner.head)]
    head_bias = learner.head.bias.detach()
    for _ in range(steps):
        weights = [w.clone().requires_grad_() for w in weights]
        a = x
        for weight, block in zip(weights[:-1], blocks, strict=True):
            a = a @ weight.T + block.bias.detach()
            if block.has_bn:
                a = F.batch_norm(a, None, None, block.bn_weight, block.bn_bias, training=True)
            a = torch.relu(a)
        output = a @ weights[-1].T + head_bias
        loss = F.mse_loss(output, y) if learner.task.regression else F.cross_entropy(output, y)
        gradients = torch.autograd.grad(loss, weights)
        weights = [(w - ETA * g).detach() for w, g in zip(weights, gradients, strict=True)]
    return weights


def difference(learner: OPLSTM, steps: int) -> float:
    """The largest difference between the learner's H_T and gradient descent's, over tasks and layers."""
    batch = draw(learner)
    found = final_weights(learner, batch.support_x, batch.support_y)
    tasks = zip(batch.support_x, batch.support_y, strict=True)
    plain = [
        torch.stack(layer) for layer in zip(*(descend(learner, x, y, steps) for x, y in tasks), strict=True)
    ]
    return largest(found, plain)


def largest(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest difference between two lists of tensors."""
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("regression", [True, False])
def test_the_error_signal_makes_mamls_update(regression: bool, steps: int) -> None:
    assert difference(build(Descent, regression, passes=steps), steps) < 1e-12


def test_mamls_biases_are_all_that_it_lacks() -> None:
    """The package's MAML has the same matrices after one step; its biases have moved before the second."""
    learner = build(Descent, False)
    maml = MAML(learner.task, NO_BN, **(MAML_OPTIONS | {"inner_lr": ETA})).double()
    network = {n: p for n, p in learner.state_dict().items() if n.startswith(("body.", "head."))}
    maml.net.load_state_dict(network)
    batch = draw(learner)
    adapted, gaps = maml.initial_weights(len(batch.tasks)), []
    for learner.passes in (1, 2):
        adapted = maml.inner_step(adapted, batch.support_x, batch.support_y)
        matrices = [w for name, w in adapted.items() if name.endswith("weight")]
        theirs = [whole(w, len(batch.tasks)).detach() for w in matrices]
        gaps.append(largest(final_weights(learner, batch.support_x, batch.support_y), theirs))
    assert gaps[0] < 1e-12
    assert gaps[1] > 1e-3


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (Unmasked, {}),  # the derivative of ReLU left out
        (Descent, {"backbone": BN}),  # batch norm's derivative mixes examples
        (Descent, {"softmax": False}),  # the LSTM sees logits
        (Descent, {"gamma": 0.5}),
        (Descent, {"normalisation": "example"}),  # Eq. 14 as printed
        (Descent, {"normalisation": "joint"}),
    ],
)
def test_without_its_conditions_it_does_not(kind: type[OPLSTM], changed: dict[str, Any]) -> None:
    assert difference(build(kind, False, passes=2, **changed), 2) > 1e-3


# ---------------------------------------------------------------- prototypes
class Labels(OPLSTM):
    """OP-LSTM whose coordinate LSTM puts out the label, h^L = y; the hidden layers stay as they are."""

    def lstm(self, layer: int) -> Any:
        def label(_: Tensor, m_BMO: Tensor, state: None) -> tuple[Tensor, None]:
            return m_BMO if layer == len(self.hidden) else torch.zeros_like(m_BMO), state

        return label


def prototypes(learner: OPLSTM, support_x: Tensor, support_y: Tensor) -> Tensor:
    """Rows γ / M Σ a / |a| over the examples of a class, (B, N, I); section 6."""
    features = learner.output_layer(support_x, support_y)[0]
    rows = []
    for b in range(len(features)):
        unit = [a / a.norm() if a.any() else a for a in features[b]]  # no feature may be alive
        classes = [[a for a, y in zip(unit, support_y[b], strict=True) if y == n] for n in range(3)]
        rows.append(torch.stack([0.7 * sum(members) / features.shape[1] for members in classes]))
    return torch.stack(rows).detach()


@pytest.mark.parametrize("backbone", [NO_BN, CONV], ids=["linear", "conv"])
def test_labels_make_normalised_prototypes(backbone: dict[str, Any]) -> None:
    learner = build(Labels, False, backbone, passes=1, gamma=0.7, normalisation="example")
    with torch.no_grad():
        learner.gamma.fill_(0.7)
        learner.head.weight.zero_()
    batch = episode(learner)
    expected = prototypes(learner, batch.support_x, batch.support_y)

    def error() -> float:
        final = learner.output_layer(batch.support_x, batch.support_y)[2].detach()
        return largest([final], [expected])

    assert error() < 1e-12
    for name, value in (("normalisation", "none"), ("normalisation", "matrix"), ("passes", 2)):
        kept = getattr(learner, name)
        setattr(learner, name, value)
        assert error() > 1e-3
        setattr(learner, name, kept)
    with torch.no_grad():
        learner.head.weight.fill_(0.1)  # H_0
    assert error() > 1e-3


# ---------------------------------------------------------------- what one recurrent layer can embed
def episodes() -> Iterator[tuple[Tensor, float, float]]:
    """2-way 1-shot on x = ±1 with y = s x: the support set in both orders, a query x and its label s x."""
    for s in (1.0, -1.0):
        for first in (1.0, -1.0):
            for x in (1.0, -1.0):
                yield torch.tensor([[first, s * first], [-first, -s * first]]), x, s * x


def test_one_lstm_layer_with_a_linear_read_out_suffices() -> None:
    """c sums i g = σ(k x) tanh(k y): the label of x = 1. Gates σ(±k x) choose its sign for the query."""
    options: Any = {"support_mode": "sequence", "inputs": "target", "passes": 1, "first_labels": True}
    options |= {"hidden": [2], "pool_cell": False, "query_cell": True}
    mlp = NO_BN | {"widths": [1]}  # not used: x is read raw
    learner = PlainLSTM(Task((1,), 1, True), mlp, 1e-3, **options).double()
    k = 20.0
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
        lstm: Any = learner.lstm[0]
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


def test_two_tanh_units_with_a_linear_read_out_suffice() -> None:
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


def test_a_linear_recurrence_cannot() -> None:
    """Its answer is a term of the support set plus one of the query: swapped labels cannot swap the answers.

    With tanh around the same weights the answers' difference does depend on the labels.
    """
    a, b, v = torch.randn(5, 5).double(), torch.randn(5, 2).double(), torch.randn(5).double()

    def spread(around: Callable[[Tensor], Tensor]) -> float:
        """How much the difference between the answers to x = 1 and to x = -1 varies with the support set."""

        def answer(support: Tensor, x: float) -> Tensor:
            h = torch.zeros(5).double()
            for step in torch.cat([support, torch.tensor([[x, 0.0]])]).double():
                h = around(a @ h + b @ step + 0.1)
            return v @ h

        gaps = torch.stack([answer(s, 1.0) - answer(s, -1.0) for s, x, _ in episodes() if x == 1.0])
        return float(gaps.max() - gaps.min())

    assert spread(torch.clone) < 1e-10
    assert spread(torch.tanh) > 1e-3
