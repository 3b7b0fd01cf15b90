"""What every learner must be whatever its arithmetic: independence of tasks, symmetries, true meta-gradients,
sizes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewshot.episodes import Episode, Task
from fewshot.errors import UserError
from fewshot.methods.base import MetaLearner
from fewshot.methods.losses import accumulated_losses
from fewshot.methods.maml import MAML as Maml
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
    "oplstm-matrix": ("oplstm", RELEASED_OPLSTM | {"normalisation": "matrix", "gamma": None}),
    "oplstm-preactivation": ("oplstm", RELEASED_OPLSTM | {"normalisation": "none", "preactivation": True}),
}
ALL = [(name, backbone) for name in LEARNERS for backbone in ("fc", "mlp", "conv4")]
ALL = [pair for pair in ALL if pair[0] != "oplstm-preactivation" or pair[1] == "fc"]


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
    """Adam must see the sum over the meta-batch, the log the mean, and the test one score and number a
    task."""
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


def test_optimizer_is_plain_adam_over_everything() -> None:
    """Protocol: Adam, default betas, no weight decay, all parameters, the stated lr."""
    learner = make_named("oplstm-released", "fc")
    optimizer = learner.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    assert {id(p) for p in group["params"]} == {id(p) for p in learner.parameters()}


SYMMETRIC = [
    *("protonet", "maml", "warpmaml", "sap", "lstm-set", "lstm-set-released"),
    *("oplstm-text", "oplstm-released", "oplstm-matrix", "oplstm-preactivation"),
]


@pytest.mark.parametrize(("name", "backbone"), [pair for pair in ALL if pair[0] in SYMMETRIC])
def test_order_of_support_set_is_irrelevant(name: str, backbone: str) -> None:
    """A mean that misses an example, or a state that follows the position, would fail here."""
    learner = make_named(name, backbone)
    batch = episode(learner, tasks=2)
    expected, examples = learner.predict(batch), batch.support_x.shape[1]
    for _ in range(3):
        orders = torch.stack([torch.randperm(examples) for _ in range(2)])
        close(learner.predict(reorder_support(batch, orders)), expected, rtol=1e-8, atol=1e-9)


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
    """With bn=support nothing of a query may reach another; transductive batch norm must really use the query
    set."""
    learner = make_named(name, backbone, None if backbone == "mlp" else bn)
    batch = episode(learner)
    others = batch.query_x.clone()
    others[:, 1:] = 3 * torch.randn_like(others[:, 1:]) + 1
    before, after = learner.predict(batch)[:, 0], learner.predict(batch._replace(query_x=others))[:, 0]
    if takes_bn(name, backbone) and bn == "transductive":
        assert (after - before).abs().amax(1).min() > 1e-4
    else:
        close(after, before)


@pytest.mark.parametrize(("name", "backbone"), ALL)
def test_a_single_query(name: str, backbone: str) -> None:
    """With bn=support it is predicted as among others; transductive batch norm cannot predict it."""
    learner = make_named(name, backbone)
    batch = episode(learner)
    if not takes_bn(name, backbone):
        with pytest.raises(UserError, match=r"^bn=support: the run's backbone has no batch norm"):
            normalise_by_support(learner)
        return
    with pytest.raises(UserError, match=r"set of one example.*backbone\.bn=support"):
        learner(batch.support_x, batch.support_y, batch.query_x[:, :1])
    normalise_by_support(learner)
    expected = learner.predict(batch)
    for number, query in enumerate(batch.query_x.split(1, 1)):
        close(learner(batch.support_x, batch.support_y, query), expected[:, number : number + 1])


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


@pytest.mark.parametrize(
    ("method", "backbone", "bn", "options"),
    [
        ("maml", "mlp", None, MAML),
        *(("maml", backbone, bn, MAML) for backbone in ("fc", "conv4") for bn in ("transductive", "support")),
        *(("sap", backbone, None, SAP | {"inner_steps": 2}) for backbone in ("fc", "conv4")),
        ("sap", "conv4", None, SAP | {"inner_steps": 2, "centred": False}),
    ],
)
def test_meta_gradient_equals_finite_differences(
    method: str, backbone: str, bn: str | None, options: dict[str, Any]
) -> None:
    """A first-order, detached or BN-blind gradient fails here, in each tensor and in all together."""
    learner = make(method, backbone, bn, regression=backbone == "mlp", **options)
    batch = episode(learner, tasks=2)
    found = gradients(learner, batch)
    assert set(found) == {name for name, _ in learner.named_parameters()}
    check_gradient(learner, found, lambda: summed_loss(learner, batch))


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
    """The gradient of the warps is the sum over the steps of that of one step from where it starts."""
    learner: Any = make("warpmaml", backbone, **WARPMAML | {"inner_steps": 3})
    batch = episode(learner, tasks=1)
    found = {name: g for name, g in gradients(learner, batch).items() if ".warps." in name}
    starts = [learner.initial_weights(1)]
    for _ in range(2):
        starts.append(learner.inner_step(starts[-1], batch.support_x, batch.support_y))
    starts = [{name: whole(weight, 1).detach().clone() for name, weight in start.items()} for start in starts]
    parameters = dict(learner.net.named_parameters())
    learner.inner_steps = 1

    def value() -> Tensor:
        total = torch.zeros(())
        for start in starts:
            with torch.no_grad():
                for name, weight in start.items():
                    parameters[name].copy_(weight[0])
            total = total + summed_loss(learner, batch).detach()
        return total

    check_gradient(learner, found, value)


def test_maml_clips_gradients_where_the_released_runs_do() -> None:
    """After each task as the gradients are added, or once; a large bound changes nothing."""
    learner: Any = make("maml", "fc", **MAML)
    learner.inner_steps = 0  # plain gradients of the initial weights
    batch = episode(learner)
    parts = [gradients(learner, Episode(*(part[b : b + 1] for part in batch))) for b in range(3)]
    bound = 0.7 * max(float(sum(p[name] for p in parts).abs().max()) for name in parts[0])
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
    assert differ > 1e-3
    learner.grad_clip = 1e6
    for name, found in gradients(learner, batch).items():
        close(found, sum(p[name] for p in parts))


def test_maml_takes_other_steps_in_evaluation() -> None:
    learner: Any = make("maml", "fc", **MAML | {"inner_steps": 1, "eval_inner_steps": 4})
    batch = episode(learner)
    trained, evaluated = learner.predict(batch), learner.eval().predict(batch)
    learner.train().inner_steps = 4
    close(evaluated, learner.predict(batch))
    assert (evaluated - trained).abs().max() > 1e-3


def test_what_is_not_adapted_is_not_copied() -> None:
    options = MAML | {"grad_clip_each": True, "adapt_head_only": True}
    assert sorted(make("maml", "conv4", **options).initial_weights(tasks=7)) == ["head.bias", "head.weight"]
    clipped: Any = make("maml", "conv4", **options | {"grad_clip": 10.0})
    assert len(clipped.initial_weights(tasks=7)) == len(list(clipped.net.parameters()))


def test_sap_adapts_operations_and_head() -> None:
    learner: Any = make("sap", "fc", **SAP)
    adapted = [name for name, _ in learner.net.named_parameters() if learner.adapts(name)]
    assert {name.split(".")[0] for name in adapted} == {"transforms", "transforms_head", "head"}
    assert not learner.adapts("transformsation.weight")


class MetaSGD(Maml):
    """Learns a step size for every weight."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.names = [name for name, _ in self.net.named_parameters()]
        self.sizes = nn.ParameterList(torch.full_like(p, self.inner_lr) for p in self.net.parameters())

    def step_size(self, name: str) -> Tensor:
        return self.sizes[self.names.index(name)]


def test_meta_sgd_is_maml_with_learned_steps() -> None:
    plain: Any = make("maml", "fc", **MAML)
    sgd = MetaSGD(plain.task, FC, **MAML).double()
    sgd.net.load_state_dict(plain.net.state_dict())
    for size in sgd.sizes:
        size.data.fill_(MAML["inner_lr"])  # in float64
    batch = episode(plain)
    found = gradients(sgd, batch)
    close(sgd.predict(batch), plain.predict(batch))
    for name, gradient in gradients(plain, batch).items():
        close(found[name], gradient)
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    assert settings_of(MetaSGD) == settings_of(Maml)
    assert sgd.hparams["inner_lr"] == MAML["inner_lr"]
    with pytest.raises(UserError, match="MetaSGD: inner_steps=0: Input should be greater than or equal to 1"):
        MetaSGD(plain.task, FC, **MAML | {"inner_steps": 0})


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


def test_gamma_is_learned_unless_null() -> None:
    learner: Any = CLASSES["oplstm"](make("oplstm", "fc", **OPLSTM | TEXT).task, FC, **RELEASED_OPLSTM)
    assert learner.gamma.item() == pytest.approx(0.4)
    fixed = CLASSES["oplstm"](learner.task, FC, **RELEASED_OPLSTM | {"gamma": None})
    assert "gamma" not in dict(fixed.named_parameters())


@pytest.mark.parametrize(("name", "backbone"), ALL)
def test_evaluation_equals_training_and_leaves_no_graph(name: str, backbone: str) -> None:
    """Lightning evaluates under no_grad, where MAML still needs inner gradients; nothing may grow or
    differ."""
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


@pytest.mark.parametrize("name", LEARNERS)
def test_twenty_tasks_of_noise_are_overfitted(name: str) -> None:
    method, options = LEARNERS[name]
    body = FC | {"widths": [64, 64]}
    small = {"inner_lr": 0.1, "inner_steps": 2} if "inner_lr" in options else {}
    small |= {"hidden": [64], "query_cell": True, "pool_cell": True} if method == "lstm" else {}
    learner = CLASSES[method](Task((1, 4, 4), 3, False), body, **options | small | {"lr": 5e-3})
    x = torch.randn(20, 9, 1, 4, 4)
    y = torch.arange(3).repeat(20, 3)
    batch = Episode(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:], torch.arange(20))
    optimizer = learner.configure_optimizers()
    for _ in range(100):
        loss = summed_loss(learner, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() / 20 < 0.05  # ln 3 or more at first
    assert learner.scores(learner.predict(batch), batch.query_y).min() == 100


@pytest.mark.parametrize(("name", "backbone"), ALL)
def test_gradient_accumulation_has_the_same_gradients(name: str, backbone: str) -> None:
    learner = make_named(name, backbone)
    batch = episode(learner, tasks=3)
    expected = losses_and_gradient(learner, batch)
    learner.zero_grad()
    losses, predictions = accumulated_losses(learner, batch, 2)
    losses.sum().backward()
    found = losses, predictions, *(p.grad for p in learner.parameters())
    for here, there in zip(found, expected, strict=True):
        close(here, there, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["protonet", "maml", "warpmaml", "lstm-set", "oplstm-text"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_prediction_that_is_not_finite_gives_nan(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner: Any = make_named(name, "fc")
    batch = episode(learner, tasks=2)
    place = tuple(torch.tensor([i]) for i in (1, 2, 0))

    def spoil(predictions: Tensor) -> Tensor:
        return predictions.index_put(place, predictions.new_tensor(value))

    scores = learner.scores(spoil(learner.predict(batch).detach()), batch.query_y)
    assert scores.isfinite().tolist() == [True, False]
    method = "predict_queries" if name == "warpmaml" else "predict"  # Warp-MAML has `losses` of its own
    original, task_losses = getattr(learner, method), learner.task_losses
    monkeypatch.setattr(learner, method, lambda *args: spoil(original(*args)))
    monkeypatch.setattr(learner, "task_losses", lambda p, y: task_losses(p.nan_to_num(), y))
    losses, _ = learner.losses(batch)
    assert torch.isnan(losses[1])
    assert torch.isfinite(losses[0]) or name == "warpmaml"


@pytest.mark.parametrize("wrong", [lambda _: None, lambda x: x.flatten(1), lambda x: x.transpose(1, 2)])
def test_predictions_of_another_shape_are_an_error(wrong: Callable[[Tensor], Any]) -> None:
    learner: Any = make("protonet", "fc", lr=1e-3)
    forward = learner.forward
    learner.forward = lambda *args: wrong(forward(*args))
    with pytest.raises(UserError, match=r"forward of ProtoNet returns .*, not \(3, 12, 3\)"):
        learner.predict(episode(learner))
