"""What every learner must be whatever its arithmetic: independence of tasks, symmetries, true meta-gradients, sizes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fewshot.data.sine import SineSource
from fewshot.episodes import Episode
from fewshot.errors import UserError
from fewshot.methods.base import MetaLearner, Task
from fewshot.methods.maml import MAML as Maml
from fewshot.methods.warpmaml import WarpMAML
from fewshot.options import settings_of
from fewshot.training.evaluate import normalise_by_support
from tests.conftest import (
    CLASSES,
    FC,
    LSTM,
    MAML,
    OPLSTM,
    RELEASED,
    SAP,
    TEXT,
    WARPMAML,
    episode,
    make,
    whole,
)

NORMALISATIONS = ("example", "matrix", "joint", "none")
SET = LSTM | {"support_mode": "set", "pool_cell": True, "query_cell": True}
SEQUENCE = LSTM | {"support_mode": "sequence", "pool_cell": False, "query_cell": False}
RELEASED_OPLSTM = OPLSTM | RELEASED | {"normalisation": "joint"}
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "protonet": ("protonet", {"lr": 1e-3}),
    "maml": ("maml", MAML),
    "anil": ("maml", MAML | {"adapt_head_only": True}),
    "warpmaml": ("warpmaml", WARPMAML),
    "warpmaml-text": ("warpmaml", WARPMAML | {"last_loss": True}),
    "sap": ("sap", SAP),
    "sap-corner": ("sap", SAP | {"centred": False}),
    "lstm-set": ("lstm", SET),
    "lstm-set-released": ("lstm", SET | {"pool_cell": False, "query_cell": False, "first_labels": False}),
    "lstm-sequence": ("lstm", SEQUENCE),
    "lstm-offset": ("lstm", SEQUENCE | {"inputs": "prev_target_pred_err"}),
    "oplstm-text": ("oplstm", OPLSTM | TEXT),
    "oplstm-released": ("oplstm", RELEASED_OPLSTM),
}
ALL = [(name, backbone) for name in LEARNERS for backbone in ("fc", "mlp", "conv4")]


def make_named(name: str, backbone: str, bn: str | None = None) -> MetaLearner:
    method, options = LEARNERS[name]
    return make(method, backbone, bn, regression=backbone == "mlp" and method != "protonet", **options)


def summed_loss(learner: MetaLearner, batch: Episode) -> Tensor:
    return learner.losses(batch)[0].sum()


def gradients(learner: MetaLearner, batch: Episode) -> dict[str, Tensor]:
    learner.zero_grad()
    summed_loss(learner, batch).backward()
    learner.on_before_optimizer_step(learner.configure_optimizers())
    named = learner.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


def losses_and_gradient(learner: MetaLearner, batch: Episode) -> tuple[Tensor, ...]:
    """Of one call of `losses`: the losses, the predictions and each parameter's gradient."""
    learner.zero_grad()
    losses, predictions = learner.losses(batch)
    losses.sum().backward()
    return losses, predictions, *(p.grad.clone() for p in learner.parameters() if p.grad is not None)


def close(found: Tensor, expected: Tensor, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def reorder_support(batch: Episode, order_BM: Tensor) -> Episode:
    rows = torch.arange(len(order_BM))[:, None]
    return batch._replace(
        support_x=batch.support_x[rows, order_BM], support_y=batch.support_y[rows, order_BM]
    )


# ---------------------------------------------------------------- tasks do not see each other
@pytest.mark.parametrize(("name", "backbone"), ALL)
def test_batch_of_tasks_equals_tasks_one_by_one(name: str, backbone: str) -> None:
    """A statistic, norm or weight shared across the meta-batch would show here."""
    learner = make_named(name, backbone)
    batch = episode(learner, tasks=4)
    predictions, summed = learner.predict(batch).detach(), gradients(learner, batch)
    singles = [Episode(*(part[b : b + 1] for part in batch)) for b in range(4)]
    close(torch.cat([learner.predict(one).detach() for one in singles]), predictions)
    each = [gradients(learner, one) for one in singles]
    for key, gradient in summed.items():
        close(sum(one[key] for one in each), gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("regression", [False, True])
def test_steps_sum_losses_and_score_each_task(
    regression: bool, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam must see the sum over the meta-batch, the log the mean, and the test one score and number a task."""
    learner = make("lstm", "mlp", None, regression, **SET)
    batch = episode(learner, tasks)._replace(tasks=torch.arange(7, 7 + tasks))
    logged: dict[str, float] = {}
    monkeypatch.setattr(learner, "log", lambda key, value, **_: logged.update({key: float(value)}))
    predictions = learner.predict(batch).detach()
    losses, scores = [], []
    for prediction, target in zip(predictions, batch.query_y, strict=True):
        if regression:
            losses.append(float(((prediction - target) ** 2).mean()))
            scores.append(losses[-1])
        else:
            rows = list(zip(prediction, target.tolist(), strict=True))
            losses.append(-np.mean([row.log_softmax(0)[label].item() for row, label in rows]))
            scores.append(100 * np.mean([row.argmax().item() == label for row, label in rows]))
    step = learner.training_step(batch, 0)
    assert step["loss"].item() == pytest.approx(sum(losses), rel=1e-12)
    close(step["predictions"], predictions)
    assert not step["predictions"].requires_grad
    with torch.no_grad():
        learner.on_validation_epoch_start()
        learner.validation_step(batch, 0)
        learner.on_validation_epoch_end()
        learner.on_test_start()
        learner.test_step(batch, 0)
        learner.on_test_epoch_end()
    metric = "mse" if regression else "accuracy"
    assert logged["train/loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert logged[f"val/{metric}"] == pytest.approx(np.mean(scores), rel=1e-6)
    assert logged["val/loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert learner.test_scores.compute().view(-1).tolist() == pytest.approx(scores, rel=1e-6)
    assert learner.test_tasks.compute().view(-1).tolist() == [7, 8, 9][:tasks]


@pytest.mark.parametrize("wrong", [lambda _: None, lambda x: x.flatten(1), lambda x: x.transpose(1, 2)])
def test_a_forward_of_another_shape_is_told(wrong: Callable[[Tensor], Any]) -> None:
    learner = make("protonet", "fc", lr=1e-3)
    batch = episode(learner)
    right = learner.forward
    learner.forward = lambda *told: wrong(right(*told))  # type: ignore[method-assign]
    with pytest.raises(
        UserError, match=r"forward of ProtoNet gives .*, not \(3, 12, 3\): tasks, queries, outputs"
    ):
        learner.predict(batch)


def test_optimizer_is_plain_adam_over_everything() -> None:
    """Protocol: Adam, default betas, no weight decay, all parameters, the stated lr."""
    learner = make_named("oplstm-released", "fc")
    optimizer = learner.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    assert {id(p) for p in group["params"]} == {id(p) for p in learner.parameters()}


# ---------------------------------------------------------------- order of the support set
SYMMETRIC = [
    ("oplstm", backbone, OPLSTM | {"normalisation": normalisation, "softmax": pooled, "pool_state": pooled})
    for backbone in ("fc", "mlp", "conv4")
    for normalisation, pooled in zip(NORMALISATIONS * 2, (True,) * 4 + (False,) * 4, strict=True)
]
SYMMETRIC += [
    ("oplstm", "fc", OPLSTM | RELEASED | {"normalisation": normalisation, "preactivation": True})
    for normalisation in NORMALISATIONS
]
SYMMETRIC += [
    ("lstm", backbone, LEARNERS[n][1])
    for backbone in ("fc", "mlp", "conv4")
    for n in ("lstm-set", "lstm-set-released")
]
SYMMETRIC += [(method, "fc", LEARNERS[method][1]) for method in ("protonet", "maml", "warpmaml", "sap")]


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(data=st.data(), seed=st.integers(0, 2**16))
@pytest.mark.parametrize(("method", "backbone", "options"), SYMMETRIC, ids=range(len(SYMMETRIC)))
def test_order_of_support_set_is_irrelevant(
    method: str, backbone: str, options: dict, data: st.DataObject, seed: int
) -> None:
    """A mean that misses an example, or a state that follows the position, would show here."""
    torch.manual_seed(seed)
    learner = make(method, backbone, regression=backbone == "mlp", **options)
    batch = episode(learner, tasks=2)
    examples = batch.support_x.shape[1]
    orders = torch.tensor([data.draw(st.permutations(range(examples))) for _ in range(2)])
    with torch.no_grad():
        close(learner.predict(reorder_support(batch, orders)), learner.predict(batch), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("backbone", ["fc", "mlp", "conv4"])
@pytest.mark.parametrize("name", ["lstm-sequence", "lstm-offset"])
def test_sequence_lstm_depends_on_order(name: str, backbone: str) -> None:
    """The sequential variant that pooled somewhere would be the set variant by another name."""
    learner = make_named(name, backbone)
    batch = episode(learner)
    backwards = torch.arange(batch.support_x.shape[1]).flip(0).expand(3, -1)
    change = learner.predict(reorder_support(batch, backwards)) - learner.predict(batch)
    assert change.abs().amax((1, 2)).min() > 1e-4


# ---------------------------------------------------------------- queries
@pytest.mark.parametrize(("name", "backbone"), ALL)
def test_queries_are_equivariant(name: str, backbone: str) -> None:
    """Reordering the queries must reorder the predictions and nothing else."""
    learner = make_named(name, backbone)
    batch = episode(learner)
    order = torch.randperm(batch.query_x.shape[1])
    close(learner.predict(batch._replace(query_x=batch.query_x[:, order])), learner.predict(batch)[:, order])


def takes_bn(name: str, backbone: str) -> bool:
    """The LSTM sees raw inputs unless the backbone is convolutional; the MLP has no batch norm."""
    return backbone == "conv4" or (backbone == "fc" and not name.startswith("lstm"))


@pytest.mark.parametrize("bn", ["transductive", "support"])
@pytest.mark.parametrize(("name", "backbone"), ALL)
def test_queries_see_each_other_only_through_transductive_bn(name: str, backbone: str, bn: str) -> None:
    """With bn=support nothing of a query may reach another; transductive batch norm must really use the query set."""
    learner = make_named(name, backbone, None if backbone == "mlp" else bn)
    batch = episode(learner)
    others = batch.query_x.clone()
    others[:, 1:] = 3 * torch.randn_like(others[:, 1:]) + 1
    before, after = learner.predict(batch)[:, 0], learner.predict(batch._replace(query_x=others))[:, 0]
    if takes_bn(name, backbone) and bn == "transductive":
        assert (after - before).abs().amax(1).min() > 1e-4
    else:
        close(after, before)


@pytest.mark.parametrize(("name", "backbone"), [pair for pair in ALL if takes_bn(*pair)])
def test_one_query_alone_is_predicted_as_in_a_batch_with_bn_support(name: str, backbone: str) -> None:
    learner = make_named(name, backbone)
    batch = episode(learner)
    normalise_by_support(learner)
    together = learner.predict(batch)
    for query, alone in enumerate(batch.query_x.split(1, 1)):
        close(learner(batch.support_x, batch.support_y, alone), together[:, query : query + 1])


@pytest.mark.parametrize(("name", "backbone"), [pair for pair in ALL if takes_bn(*pair)])
def test_one_query_alone_is_an_error_with_transductive_bn(name: str, backbone: str) -> None:
    learner = make_named(name, backbone)
    batch = episode(learner)
    with pytest.raises(UserError, match=r"set of one example.*backbone\.bn=support"):
        learner(batch.support_x, batch.support_y, batch.query_x[:, :1])


@pytest.mark.parametrize(("name", "backbone"), [pair for pair in ALL if not takes_bn(*pair)])
def test_bn_support_is_for_learners_with_batch_norm(name: str, backbone: str) -> None:
    with pytest.raises(UserError, match=r"^bn=support: the run's backbone has no batch norm"):
        normalise_by_support(make_named(name, backbone))


# ---------------------------------------------------------------- MAML's meta-gradient
def directional(
    learner: MetaLearner, batch: Episode, direction: dict[str, Tensor], eps: float = 1e-6
) -> float:
    """Central difference of the summed loss along a direction of the parameters."""
    values = []
    for sign in (1, -2, 1):  # there, across, and back
        with torch.no_grad():
            for name, parameter in learner.named_parameters():
                parameter.add_(sign * eps * direction[name])
        values.append(summed_loss(learner, batch).item())
    return (values[0] - values[1]) / (2 * eps)


@pytest.mark.parametrize("bn", ["transductive", "support"])
@pytest.mark.parametrize("backbone", ["fc", "conv4"])
def test_maml_meta_gradient_equals_finite_differences(backbone: str, bn: str) -> None:
    """A first-order, detached or BN-blind gradient fails here: every tensor, and several directions of all at once."""
    learner = make("maml", backbone, bn, **MAML)
    batch = episode(learner, tasks=2)
    gradient = gradients(learner, batch)
    assert set(gradient) == {name for name, _ in learner.named_parameters()}
    check_gradient(learner, gradient, lambda: summed_loss(learner, batch))


def check_gradient(learner: MetaLearner, gradient: dict[str, Tensor], value: Callable[[], Tensor]) -> None:
    """`gradient` is that of `value` along each of its tensors and along several directions of all at once."""
    parameters = dict(learner.named_parameters())
    none = {name: torch.zeros_like(g) for name, g in gradient.items()}
    directions = [none | {name: torch.randn_like(g)} for name, g in gradient.items()]
    directions += [{name: torch.randn_like(g) for name, g in gradient.items()} for _ in range(3)]
    for direction in directions:
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for name, part in direction.items():
                    parameters[name].add_(sign * 1e-6 * part)
            values.append(value().item())
        expected = sum(float((gradient[name] * part).sum()) for name, part in direction.items())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("backbone", ["fc", "conv4"])
def test_sap_meta_gradient_equals_finite_differences(backbone: str, centred: bool) -> None:
    learner = make("sap", backbone, **SAP | {"centred": centred, "inner_steps": 2})
    batch = episode(learner, tasks=2)
    check_gradient(learner, gradients(learner, batch), lambda: summed_loss(learner, batch))


@pytest.mark.parametrize("last_loss", [True, False])
@pytest.mark.parametrize("backbone", ["fc", "conv4"])
def test_warp_maml_base_gradient_equals_finite_differences(backbone: str, last_loss: bool) -> None:
    """The initialisation's gradient is that of the loss after the last step, or of the sum over the steps."""
    learner = make("warpmaml", backbone, **WARPMAML | {"last_loss": last_loss, "inner_steps": 3})
    batch = episode(learner, tasks=2)
    base = {name: g for name, g in gradients(learner, batch).items() if ".warps." not in name}

    def value() -> Tensor:
        total = torch.zeros(())
        for steps in [3] if last_loss else [1, 2, 3]:
            learner.inner_steps = steps
            total = total + summed_loss(learner, batch).detach()
        return total

    check_gradient(learner, base, value)


@pytest.mark.parametrize("backbone", ["fc", "conv4"])
def test_warp_maml_warp_gradient_equals_finite_differences(backbone: str) -> None:
    """The warps' gradient is the sum over the steps of that of one step from where the trajectory then stands."""
    learner = make("warpmaml", backbone, **WARPMAML | {"inner_steps": 3})
    batch = episode(learner, tasks=1)
    found = {name: g for name, g in gradients(learner, batch).items() if ".warps." in name}
    stops = [learner.start(1)]  # type: ignore[operator]
    for _ in range(2):
        stops.append(learner.step(stops[-1], batch.support_x, batch.support_y))  # type: ignore[operator]
    stops = [{name: whole(weight, 1).detach().clone() for name, weight in stop.items()} for stop in stops]
    parameters = dict(learner.net.named_parameters())  # type: ignore[union-attr]
    learner.inner_steps = 1

    def value() -> Tensor:
        total = torch.zeros(())
        for stop in stops:
            with torch.no_grad():
                for name, weight in stop.items():
                    parameters[name].copy_(weight[0])
            total = total + summed_loss(learner, batch).detach()
        return total

    check_gradient(learner, found, value)


@pytest.mark.parametrize("backbone", ["fc", "conv4", "mlp"])
def test_maml_is_second_order(backbone: str) -> None:
    """What torch.compile does to autograd.grad(create_graph=True): a first-order gradient that says it is exact."""
    learner = make("maml", backbone, regression=backbone == "mlp", **MAML)
    batch = episode(learner)
    exact = gradients(learner, batch)
    learner.first_order = True
    first = gradients(learner, batch)
    learner.first_order = False
    flat = [torch.cat([g.flatten() for g in each.values()]) for each in (exact, first)]
    difference = flat[0] - flat[1]
    assert difference.norm() > 0.05 * flat[0].norm()
    along = dict(zip(exact, difference.split([g.numel() for g in exact.values()]), strict=True))
    along = {name: part.view_as(exact[name]) / difference.norm() for name, part in along.items()}
    slope = directional(learner, batch, along)  # where the two differ most
    assert slope == pytest.approx(float(flat[0] @ difference / difference.norm()), rel=1e-5)
    assert abs(slope - float(flat[1] @ difference / difference.norm())) > 0.01 * flat[0].norm()


def plain_network(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The net of one task, written out: conv or linear, batch norm by the set's own statistics, ReLU, pooling."""
    for i in range(2):
        weight, bias = state[f"net.body.{i}.weight"], state[f"net.body.{i}.bias"]
        conv = weight.dim() == 4
        x = F.conv2d(x, weight, bias, padding=1) if conv else x.flatten(1) @ weight.T + bias
        axes, shape = ((0, 2, 3), (1, -1, 1, 1)) if conv else ((0,), (1, -1))
        spread = x - x.mean(axes, keepdim=True)
        x = spread / torch.sqrt((spread * spread).mean(axes, keepdim=True) + 1e-5)
        x = x * state[f"net.body.{i}.bn_weight"].view(shape) + state[f"net.body.{i}.bn_bias"].view(shape)
        x = torch.relu(x)
        x = F.max_pool2d(x, 2) if conv else x
    return x.flatten(1) @ state["net.head.weight"].T + state["net.head.bias"]


@pytest.mark.parametrize("backbone", ["fc", "conv4"])
def test_maml_equals_torch_func_task_by_task(backbone: str) -> None:
    """An independent MAML by torch.func.grad, one task at a time and without vmap (which is wrong with adapted BN)."""
    learner = make("maml", backbone, **MAML)
    batch = episode(learner)
    state = {name: p.detach() for name, p in learner.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(plain_network(weights, x), y)

    def meta_loss(weights: dict[str, Tensor], task: list[Tensor]) -> Tensor:
        for _ in range(3):
            inner = torch.func.grad(loss)(weights, task[0], task[1])
            weights = {name: w - 0.3 * inner[name] for name, w in weights.items()}
        return loss(weights, task[2], task[3])

    each = [torch.func.grad(meta_loss)(state, [part[b] for part in batch[:4]]) for b in range(3)]
    for name, gradient in gradients(learner, batch).items():
        close(gradient, sum(one[name] for one in each), rtol=1e-8, atol=1e-10)


def test_maml_clamps_gradients_where_the_released_runs_do() -> None:
    """Each task's part of the meta-gradient is clamped as it is added, or the sum once; a far bound is none."""
    learner = make("maml", "fc", **MAML)
    learner.inner_steps = 0  # no inner loop: plain gradients of the initial weights
    batch = episode(learner)
    parts = [gradients(learner, Episode(*(part[b : b + 1] for part in batch))) for b in range(3)]
    bound = 0.7 * max(float(sum(p[k] for p in parts).abs().max()) for k in parts[0])
    learner.grad_clip = bound
    differ = 0.0
    for each in (True, False):
        learner.grad_clip_each = each
        for name, found in gradients(learner, batch).items():
            one, two, three = (p[name] for p in parts)
            once = (one + two + three).clamp(-bound, bound)
            running = ((one.clamp(-bound, bound) + two).clamp(-bound, bound) + three).clamp(-bound, bound)
            close(found, running if each else once)
            differ = max(differ, float((running - once).abs().max()))
    assert differ > 1e-3  # else the two would be one
    learner = make("maml", "fc", **MAML)
    free = gradients(learner, batch)
    learner.grad_clip = 1e6
    for name, found in gradients(learner, batch).items():
        close(found, free[name])


def test_maml_takes_other_steps_in_eval() -> None:
    """T may differ at test: eval_inner_steps there, steps in training."""
    learner = make("maml", "fc", **MAML | {"inner_steps": 1, "eval_inner_steps": 4})
    batch = episode(learner)
    trained, evaluated = learner.predict(batch), learner.eval().predict(batch)
    learner.train().inner_steps = 4
    close(evaluated, learner.predict(batch))
    assert (evaluated - trained).abs().max() > 1e-3


# ---------------------------------------------------------------- OP-LSTM
def initial_predictions(learner: MetaLearner, batch: Episode) -> Tensor:
    """The net's own outputs on the queries, under H_0."""
    features = learner.body(batch.query_x)
    return features @ learner.head.weight.T + learner.head.bias  # type: ignore[union-attr]


@pytest.mark.parametrize("gamma", [0.4, None])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize(
    ("backbone", "preactivation"), [("fc", False), ("fc", True), ("mlp", False), ("conv4", False)]
)
def test_zero_update_is_no_step(
    backbone: str, preactivation: bool, normalisation: str, gamma: float | None
) -> None:
    """0 / |0|: the released code gives NaN. Here H_T = H_0, and no gradient is NaN or infinite."""
    options = (
        OPLSTM | RELEASED | {"normalisation": normalisation, "preactivation": preactivation, "gamma": gamma}
    )
    learner = make("oplstm", backbone, regression=backbone == "mlp", **options)
    lstms = [learner.output_lstm, *([learner.hidden_lstm] if backbone != "conv4" else [])]
    with torch.no_grad():
        for lstm in lstms:
            for parameter in lstm[-1].parameters():  # g = tanh(0) = 0, so c = h = 0
                parameter.zero_()
    batch = episode(learner)
    close(learner.predict(batch), initial_predictions(learner, batch), rtol=1e-12, atol=1e-12)
    found = gradients(learner, batch)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert found["head.weight"].abs().max() > 0  # the loss still reaches H_0


@pytest.mark.parametrize(("normalisation", "count"), [("matrix", 3), ("joint", 1)])
def test_step_has_length_gamma(normalisation: str, count: int) -> None:
    """Normalised updates: each layer's step is gamma long, or all layers' steps together."""
    learner = make("oplstm", "fc", **OPLSTM | RELEASED | {"normalisation": normalisation, "passes": 1})
    batch = episode(learner)
    after = learner.learn(learner.body.shape(batch.support_x), learner.targets(batch.support_y))
    weights = zip(after, learner.initial_weights(), strict=True)
    steps = [(w.materialize(3) - h.materialize(3)).square().sum((1, 2)) for w, h in weights]
    squares = torch.stack(steps) if count == 3 else torch.stack(steps).sum(0, keepdim=True)
    close(squares.sqrt(), learner.gamma.expand(count, 3))


def test_gamma_none_is_one_and_not_learned() -> None:
    """gamma=null is a step size of 1 without a parameter; a learned one gets a gradient and, at 0, no step."""
    learner = make("oplstm", "fc", **RELEASED_OPLSTM)
    batch = episode(learner)
    assert gradients(learner, batch)["gamma"].abs() > 1e-6
    fresh = CLASSES["oplstm"](learner.task, FC, **RELEASED_OPLSTM)
    assert fresh.gamma.item() == pytest.approx(0.4)  # type: ignore[union-attr,operator]
    with torch.no_grad():
        learner.gamma.fill_(1.0)  # type: ignore[union-attr,operator]
        at_one = learner.predict(batch)
        learner.gamma.fill_(0.0)  # type: ignore[union-attr,operator]
        close(learner.predict(batch), initial_predictions(learner, batch))
    learner.gamma = None
    close(learner.predict(batch), at_one)
    assert "gamma" not in dict(learner.named_parameters())


@pytest.mark.parametrize("backbone", ["fc", "mlp", "conv4"])
def test_detach_changes_gradients_only(backbone: str) -> None:
    """detach cuts the graph at the LSTM's inputs: same predictions, other gradients, and all still learn."""
    learner = make_named("oplstm-released", backbone)
    batch = episode(learner)
    whole, predictions = gradients(learner, batch), learner.predict(batch).detach()
    learner.detach = True
    close(learner.predict(batch), predictions, rtol=0, atol=0)
    cut = gradients(learner, batch)
    for name in ("body.0.weight", "head.weight", "output_lstm.0.weight_ih"):
        assert (cut[name] - whole[name]).norm() > 1e-4 * whole[name].norm()
        assert cut[name].abs().max() > 0


def test_detach_keeps_the_first_pass() -> None:
    """In one pass over a conv net the LSTM's inputs do not depend on the LSTM: its gradients stay whole."""
    learner = make("oplstm", "conv4", **RELEASED_OPLSTM | {"passes": 1})
    batch = episode(learner)
    whole = gradients(learner, batch)
    learner.detach = True
    cut = gradients(learner, batch)
    for name in whole:
        if name.startswith("output_lstm"):
            close(cut[name], whole[name])
    assert (cut["body.0.weight"] - whole["body.0.weight"]).norm() > 1e-6  # rounding leaves 1e-15


def test_scalar_bias_cancels_in_the_softmax() -> None:
    """One output bias for all classes shifts all logits alike: probabilities are those of a zero bias."""
    learner = make("oplstm", "conv4", **OPLSTM | RELEASED | {"normalisation": "matrix", "scalar_bias": True})
    batch = episode(learner)
    assert learner.head.bias.shape == (1,)
    learner.softmax = True  # or the LSTM is shown the shift
    before = learner.predict(batch).softmax(-1)
    with torch.no_grad():
        learner.head.bias.add_(1.7)
    close(learner.predict(batch).softmax(-1), before)


# ---------------------------------------------------------------- evaluation
@pytest.mark.parametrize(("name", "backbone"), ALL)
def test_evaluation_equals_training_and_leaves_no_graph(name: str, backbone: str) -> None:
    """Lightning evaluates under no_grad, where MAML still needs inner gradients; nothing may grow or differ."""
    learner = make_named(name, backbone)
    batch = episode(learner)
    trained = learner.train().predict(batch)
    assert trained.requires_grad
    learner.eval()
    with torch.no_grad():
        evaluated = learner.predict(batch)
    assert not evaluated.requires_grad
    assert evaluated.grad_fn is None
    assert all(parameter.grad is None for parameter in learner.parameters())
    close(evaluated, trained.detach())


# ---------------------------------------------------------------- learning at all
WIDE = {"layer": "linear", "widths": [64, 64], "bn": "transductive", "zero_bias": False}
FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "protonet": ("protonet", {}),
    "maml": ("maml", MAML | {"inner_lr": 0.1, "inner_steps": 2}),
    "warpmaml": ("warpmaml", WARPMAML | {"inner_lr": 0.1, "inner_steps": 2}),
    "sap": ("sap", SAP | {"inner_lr": 0.1, "inner_steps": 2}),
    "lstm-set": ("lstm", SET | {"hidden": [64]}),
    "lstm-sequence": ("lstm", SEQUENCE | {"hidden": [64], "query_cell": True}),
    "oplstm-text": ("oplstm", OPLSTM | TEXT | {"passes": 2}),
    "oplstm-released": (
        "oplstm",
        OPLSTM | RELEASED | {"normalisation": "none", "gamma": None, "preactivation": True, "passes": 1},
    ),
}


def fit(learner: MetaLearner, batch: Episode, updates: int) -> tuple[float, float]:
    """First and last mean loss of Adam on one batch of tasks."""
    optimizer = learner.configure_optimizers()
    losses = []
    for _ in range(updates):
        loss = summed_loss(learner, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / len(batch.tasks))
    return losses[0], losses[-1]


@pytest.mark.parametrize("name", FITS)
def test_twenty_tasks_are_overfitted(name: str) -> None:
    """Near zero: cross-entropy under 0.05 (it starts at about ln 3 or above) and all 120 queries right, of noise."""
    method, options = FITS[name]
    learner = CLASSES[method](Task((1, 4, 4), 3, False), WIDE, **options | {"lr": 5e-3})

    def one_set(examples: int) -> tuple[Tensor, Tensor]:
        return torch.randn(20, 3 * examples, 1, 4, 4), torch.arange(3).repeat_interleave(examples).expand(
            20, -1
        )

    batch = Episode(*one_set(1), *one_set(2), torch.arange(20))
    first, last = fit(learner, batch, 100)
    assert first > 1.0
    assert last < 0.05
    assert learner.scores(learner.predict(batch), batch.query_y).min() == 100


@pytest.mark.parametrize("support", ["set", "sequence"])
def test_twenty_sine_waves_are_overfitted(support: str) -> None:
    """Near zero: squared error under 1/20 of its first value, which is about the variance of the waves."""
    source = SineSource(seed=0, sign=1)
    batch = source.episode(source.draw("train", np.arange(20), 5, 5), 5)
    options = SET | {"support_mode": support, "hidden": [40], "lr": 1e-2}
    mlp = {"layer": "linear", "widths": [4], "bn": "none", "zero_bias": True}
    first, last = fit(CLASSES["lstm"](Task((1,), 1, True), mlp, **options), batch, 180)
    assert first > 1.0
    assert last < first / 20


# ---------------------------------------------------------------- numbers that are not finite, and what is not needed
@pytest.mark.parametrize(("method", "options"), [("protonet", {"lr": 1e-3}), ("maml", MAML)])
def test_threads_change_the_order_of_sums_and_nothing_else(method: str, options: dict[str, Any]) -> None:
    wide = FC | {"widths": [128, 64]}  # wide enough for torch to share the work out
    learner = CLASSES[method](Task((1, 16, 16), 5, False), wide, **options).double()
    tasks, gradients = episode(learner, tasks=4, shots=5, queries=15), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            loss = learner.losses(tasks)[0].sum()
            gradients.append(
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.parameters()))])
            )
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_prediction_that_is_not_finite_is_no_guess(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_named(name, "fc")
    batch, original = episode(learner, tasks=2), type(learner).task_losses

    def spoilt(predictions: Tensor) -> Tensor:
        return predictions.index_put(
            (torch.tensor([1]), torch.tensor([2]), torch.tensor([0])), predictions.new_tensor(value)
        )

    predictions = spoilt(learner.predict(batch).detach())
    assert torch.isfinite(learner.scores(predictions, batch.query_y)[0])
    assert torch.isnan(learner.scores(predictions, batch.query_y)[1])
    monkeypatch.setattr(learner, "predict", lambda _: predictions)
    if isinstance(learner, WarpMAML):  # it goes another way to its losses
        answer = learner.answer
        monkeypatch.setattr(learner, "answer", lambda *told: spoilt(answer(*told)))
        monkeypatch.setattr(learner, "task_losses", lambda p, y: original(learner, p.nan_to_num(), y))
    losses, _ = learner.losses(batch)
    assert torch.isfinite(losses[0]) or isinstance(learner, WarpMAML)
    assert torch.isnan(losses[1])


@pytest.mark.parametrize("grad_clip_each", [True, False])
def test_what_is_not_adapted_is_not_copied(grad_clip_each: bool) -> None:
    learner = make("maml", "conv4", **MAML | {"grad_clip_each": grad_clip_each}, adapt_head_only=True)
    assert sorted(learner.start(tasks=7)) == ["head.bias", "head.weight"]
    clamped = make(
        "maml", "conv4", **MAML | {"grad_clip_each": True, "grad_clip": 10.0}, adapt_head_only=True
    )
    assert len(clamped.start(tasks=7)) == len(list(clamped.net.parameters()))


class MetaSGD(Maml):
    """Learns a step size for every weight."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        told = {
            name.replace(".", "_"): torch.full_like(p, self.inner_lr)
            for name, p in self.net.named_parameters()
        }
        self.steps_of = nn.ParameterDict(told)

    def step_size(self, name: str) -> Tensor:
        return self.steps_of[name.replace(".", "_")]


def test_meta_sgd_is_maml_with_learned_steps() -> None:
    """At its start it is MAML, and every step size is learned."""
    plain = make("maml", "fc", **MAML)
    sgd = MetaSGD(plain.task, FC, **MAML).double()
    sgd.net.load_state_dict(plain.net.state_dict())  # type: ignore[arg-type,union-attr]
    for step in sgd.steps_of.values():
        step.data.fill_(MAML["inner_lr"])  # in float64
    batch = episode(plain)
    close(sgd.predict(batch), plain.predict(batch))
    of_maml, of_sgd = gradients(plain, batch), gradients(sgd, batch)
    for name, gradient in of_maml.items():
        close(of_sgd[name], gradient)
    assert all(of_sgd[f"steps_of.{name}"].abs().max() > 0 for name in sgd.steps_of)
    assert settings_of(MetaSGD) == settings_of(Maml)
    assert sgd.hparams["inner_lr"] == MAML["inner_lr"]
    with pytest.raises(UserError, match="MetaSGD: inner_steps=0: Input should be greater than or equal to 1"):
        MetaSGD(plain.task, FC, **MAML | {"inner_steps": 0})
    with pytest.raises(UserError, match="step=1: Unexpected keyword argument"):
        MetaSGD(plain.task, FC, **MAML, step=1)


def test_sap_adapts_what_is_named_so_and_nothing_like_it() -> None:
    learner = make("sap", "fc", **SAP)
    moved = [name for name, _ in learner.net.named_parameters() if learner.adapts(name)]
    assert {name.split(".")[0] for name in moved} == {"transforms", "transforms_head", "head"}
    assert not learner.adapts("transformsation.weight")


# ---------------------------------------------------------------- tasks of an update in parts
@pytest.mark.parametrize(("name", "backbone"), ALL)
def test_parts_of_a_meta_batch_have_the_gradients_of_the_whole(name: str, backbone: str) -> None:
    learner = make_named(name, backbone)
    batch = episode(learner, tasks=3)
    whole = gradients(learner, batch)
    learner.zero_grad()
    learner.micro_batch_size = 2
    losses, predictions = learner.losses_in_parts(batch)
    losses.sum().backward()
    expected, expected_predictions = learner.losses(batch)
    close(losses.detach(), expected.detach())
    close(predictions, expected_predictions.detach())
    for parameter_name, parameter in learner.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, whole[parameter_name], rtol=1e-9, atol=1e-12)
