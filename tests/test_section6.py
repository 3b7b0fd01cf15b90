"""Section 6: OP-LSTM as gradient descent and as prototypes; docs/section6.md has the algebra."""

import pytest
import torch
import torch.nn.functional as F

from fewshot.backbones.task_kernel import unpool
from fewshot.methods.base import Task
from fewshot.methods.maml import MAML
from fewshot.methods.oplstm import OPLSTM
from fewshot.methods.warp_oplstm import Warp, WarpOPLSTM
from tests.conftest import CONV, RELEASED, episode, materialized
from tests.conftest import MAML as MAML_OPTIONS
from tests.conftest import OPLSTM as OPTIONS

ETA = 0.3
NO_BN = {"layer": "linear", "widths": [6, 5], "bn": "none", "zero_bias": False}
BN = NO_BN | {"bn": "transductive"}
CONV4 = {"layer": "conv", "widths": [3, 4, 3, 4], "bn": "none", "zero_bias": False}
CONV1D = {"layer": "conv1d", "widths": [3, 4], "bn": "none", "zero_bias": False}
SHAPES = {id(CONV): (2, 8, 8), id(CONV4): (2, 19, 16), id(CONV1D): (2, 9)}  # odd sizes lose a row in pooling


def build(kind, regression, backbone=NO_BN, **options):
    task = Task(SHAPES.get(id(backbone), (4,)), 2 if regression else 3, regression)
    published = OPTIONS | RELEASED | {"normalisation": "none", "gamma": None, "softmax": True}
    learner = kind(task, backbone, **published | options).double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return learner


def draw(learner):
    """An episode whose real targets have as many numbers as the learner has outputs."""
    batch = episode(learner)
    if not learner.task.regression:
        return batch
    return batch._replace(support_y=torch.randn(*batch.support_y.shape[:2], learner.task.outputs).double())


def final_weights(learner, support_x, support_y):
    learnt = learner.adapt(learner.body.as_input(support_x), learner.targets(support_y))
    return [weight.materialize(len(support_x)).detach() for weight in learnt]


class Descent(OPLSTM):
    """OP-LSTM with the error signal for its coordinate LSTMs: h^L = -η (p - y), hidden h = m 1[a > 0]."""

    masked = True

    def lstm(self, layer):
        def signal(a_BMO, m_BMO, state):
            if layer == len(self.hidden):
                slope = 2 / self.task.outputs if self.task.regression else 1.0  # of the mean squared error
                return -ETA * slope * (a_BMO - m_BMO), state
            return m_BMO * (a_BMO > 0) if self.masked else m_BMO, state

        return signal


class Unmasked(Descent):
    masked = False


def descend(learner, x, y, steps):
    """One task: plain gradient steps of the weights on the mean support loss; biases and warps stay."""
    blocks, max_pool = learner.hidden, learner.unpool is unpool
    rates = [0.0 if isinstance(layer, Warp) else ETA for layer in (*blocks, learner.head)]
    weights = [layer.weight.detach() for layer in (*blocks, learner.head)]
    head_bias = learner.head.bias.detach()
    for _ in range(steps):
        weights = [w.clone().requires_grad_() for w in weights]
        a = x
        for weight, block in zip(weights[:-1], blocks, strict=True):
            if block.is_conv:
                a = F.conv2d(a, weight, block.bias.detach(), padding=[n // 2 for n in weight.shape[2:]])
            else:
                a = a @ weight.T + block.bias.detach()
            if isinstance(block, Warp):
                continue
            if block.has_bn:
                a = F.batch_norm(a, None, None, block.bn_weight, block.bn_bias, training=True)
            if block.is_conv:
                a = (F.max_pool2d if max_pool else F.avg_pool2d)(a, (min(a.shape[2], 2), 2))
            a = torch.relu(a)  # as after max-pooling, so after average pooling
        output = a.flatten(1) @ weights[-1].T + head_bias
        loss = F.mse_loss(output, y) if learner.task.regression else F.cross_entropy(output, y)
        gradients = torch.autograd.grad(loss, weights)
        weights = [(w - r * g).detach() for w, r, g in zip(weights, rates, gradients, strict=True)]
    return weights


def difference(learner, steps):
    """The largest difference between the learner's H_T and gradient descent's, over tasks and layers."""
    batch = draw(learner)
    found = final_weights(learner, batch.support_x, batch.support_y)
    tasks = zip(learner.body.as_input(batch.support_x), batch.support_y, strict=True)
    of_tasks = [descend(learner, x, y, steps) for x, y in tasks]
    return largest(found, [torch.stack(layer) for layer in zip(*of_tasks, strict=True)])


def largest(first, second):
    """The largest difference between two lists of tensors."""
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("regression", [True, False])
def test_the_error_signal_makes_mamls_update(regression, steps):
    assert difference(build(Descent, regression, passes=steps), steps) < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("regression", [True, False])
@pytest.mark.parametrize("backbone", [CONV4, CONV1D], ids=["conv4", "conv1d"])
def test_with_all_layers_it_makes_the_whole_networks_update(backbone, regression, steps):
    """Through ReLU and max-pooling: a convolution's update is a step of gradient descent, as any layer's."""
    learner = build(Descent, regression, backbone, passes=steps, layers="all")
    assert len(learner.hidden) == len(backbone["widths"])
    batch = draw(learner)
    initial = [weight.materialize(len(batch.tasks)).detach() for weight in learner.initial_weights()]
    final = final_weights(learner, batch.support_x, batch.support_y)
    assert min(largest([a], [b]) for a, b in zip(initial, final, strict=True)) > 1e-3
    assert difference(learner, steps) < 1e-12 * max(1.0, *(w.abs().max().item() for w in final))


def average_pool(x):
    size = (min(x.shape[3], 2), 2)
    return F.avg_pool2d(x.flatten(0, 1), size).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("backbone", [CONV4, CONV1D], ids=["conv4", "conv1d"])
def test_even_unpooling_is_that_of_average_pooling(backbone):
    learner = build(Descent, False, backbone, passes=2, layers="all", unpooling="even")
    assert difference(learner, 2) > 1e-3
    for block in learner.hidden:
        block.pool = average_pool
    assert difference(learner, 2) < 1e-12


class WarpDescent(WarpOPLSTM, Descent):
    pass


@pytest.mark.parametrize("backbone", [NO_BN | {"widths": [6, 5, 4]}, CONV4], ids=["linear", "conv4"])
def test_warps_stay_where_the_others_descend(backbone):
    layers = "last" if backbone["layer"] == "linear" else "all"
    learner = build(WarpDescent, False, backbone, passes=2, layers=layers)
    assert len(learner.warps) == len(backbone["widths"]) - 1
    assert difference(learner, 2) < 1e-12


def test_mamls_biases_are_all_that_it_lacks():
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
        theirs = [materialized(w, len(batch.tasks)).detach() for w in matrices]
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
        (Unmasked, {"backbone": CONV4, "layers": "all"}),
        (Descent, {"backbone": CONV, "layers": "all"}),  # with batch norm
    ],
)
def test_without_its_conditions_it_does_not(kind, changed):
    assert difference(build(kind, False, passes=2, **changed), 2) > 1e-3


class Labels(OPLSTM):
    """OP-LSTM whose coordinate LSTM puts out the label, h^L = y; the hidden layers stay as they are."""

    def lstm(self, layer):
        def label(_, m_BMO, state):
            return m_BMO if layer == len(self.hidden) else torch.zeros_like(m_BMO), state

        return label


def prototypes(learner, support_x, support_y):
    """Rows γ / M Σ a / |a| over the examples of a class, (B, N, I); section 6."""
    features = learner.output_layer(support_x, support_y)[0]
    rows = []
    for a_MI, y_M in zip(features, support_y, strict=True):
        unit = [a / a.norm() if a.any() else a for a in a_MI]  # no feature may be alive
        classes = [[a for a, y in zip(unit, y_M, strict=True) if y == n] for n in range(3)]
        rows.append(torch.stack([0.7 * sum(members) / len(a_MI) for members in classes]))
    return torch.stack(rows).detach()


@pytest.mark.parametrize("backbone", [NO_BN, CONV], ids=["linear", "conv"])
def test_labels_make_normalised_prototypes(backbone):
    learner = build(Labels, False, backbone, passes=1, gamma=0.7, normalisation="example")
    with torch.no_grad():
        learner.gamma.fill_(0.7)
        learner.head.weight.zero_()
    batch = episode(learner)
    expected = prototypes(learner, batch.support_x, batch.support_y)

    def error():
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
