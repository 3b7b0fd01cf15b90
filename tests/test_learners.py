"""What every learner must be whatever its arithmetic: independent tasks, and its steps, losses and scores."""

import numpy as np
import pytest
import torch

from fewshot.data.sine import SineSource
from fewshot.episodes import Task
from fewshot.errors import UserError
from fewshot.methods.losses import accumulated, baseline_scores
from tests.conftest import CLASSES, LSTM, MAML, OPLSTM, OPTIONS, RELEASED, SAP, TEXT, WARPMAML, episode, make

SET = LSTM | {"support_mode": "set", "pool_cell": True, "query_cell": True}
SEQUENCE = LSTM | {"support_mode": "sequence", "pool_cell": False, "query_cell": False}
RELEASED_OPLSTM = OPLSTM | RELEASED | {"normalisation": "joint"}
LEARNERS = {
    "protonet": ("protonet", {"lr": 1e-3}),
    "ridge": ("ridge", OPTIONS["ridge"]),
    "deltanet": ("deltanet", OPTIONS["deltanet"]),
    "reptile": ("reptile", OPTIONS["reptile"]),
    "metasgd": ("metasgd", OPTIONS["metasgd"]),
    "nearest_centroid": ("nearest_centroid", OPTIONS["nearest_centroid"]),
    "logistic": ("logistic", OPTIONS["logistic"]),
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
    "oplstm-all": ("oplstm", OPLSTM | TEXT | {"layers": "all"}),
    "oplstm-all-preactivation": (
        "oplstm",
        RELEASED_OPLSTM | {"normalisation": "matrix", "preactivation": True, "layers": "all"},
    ),
    "warp-oplstm": ("warp_oplstm", OPTIONS["warp_oplstm"]),
    "warp-oplstm-all": ("warp_oplstm", OPLSTM | TEXT | {"layers": "all", "unpooling": "even"}),
    "oplstm-preactivation": ("oplstm", RELEASED_OPLSTM | {"normalisation": "none", "preactivation": True}),
}
ALL = [(name, backbone) for name in LEARNERS for backbone in ("fc", "mlp", "conv4")]
ALL = [pair for pair in ALL if pair[0] != "oplstm-preactivation" or pair[1] == "fc"]
CONV_ONLY = ("oplstm-all", "oplstm-all-preactivation", "warp-oplstm-all")
ALL = [pair for pair in ALL if pair[0] not in CONV_ONLY or pair[1] == "conv4"]
ALL = [pair for pair in ALL if pair != ("warp-oplstm", "conv4")]
EVERY = pytest.mark.parametrize(("name", "backbone"), ALL)


def make_named(name, backbone, bn=None):
    method, options = LEARNERS[name]
    regression = backbone == "mlp" and CLASSES[method].regression
    return make(method, backbone, bn, regression=regression, **options)


def summed_loss(learner, batch):
    return learner.losses(batch)[0].sum()


def gradients(learner, batch):
    learner.zero_grad()
    summed_loss(learner, batch).backward()
    learner.on_before_optimizer_step(learner.configure_optimizers())
    named = learner.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


def losses_and_gradient(learner, batch):
    """Of one call of `losses`: the losses, the predictions and each parameter's gradient."""
    learner.zero_grad()
    losses, predictions = learner.losses(batch)
    losses.sum().backward()
    return losses, predictions, *(p.grad.clone() for p in learner.parameters() if p.grad is not None)


def close(found, expected, rtol=1e-09, atol=1e-10):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def takes_bn(name, backbone):
    """The LSTM sees raw inputs unless the backbone is convolutional; the MLP has no batch norm."""
    return backbone == "conv4" or (backbone == "fc" and not name.startswith("lstm"))


@pytest.mark.parametrize("bn", ["transductive", "support"])
@EVERY
def test_queries_see_each_other_only_through_transductive_bn(name, backbone, bn):
    """With bn=support nothing of a query may reach another; transductive batch norm must use the others."""
    learner = make_named(name, backbone, None if backbone == "mlp" else bn)
    batch = episode(learner)
    others = batch.query_x.clone()
    others[:, 1:] = 3 * torch.randn_like(others[:, 1:]) + 1
    before, after = learner.predict(batch)[:, 0], learner.predict(batch._replace(query_x=others))[:, 0]
    if takes_bn(name, backbone) and bn == "transductive":
        assert (after - before).abs().amax(1).min() > 1e-4
    else:
        close(after, before)


@EVERY
def test_a_single_query(name, backbone):
    """With bn=support it is predicted as among others; transductive batch norm cannot predict it."""
    learner = make_named(name, backbone)
    batch = episode(learner)
    if not takes_bn(name, backbone):
        return
    with pytest.raises(UserError, match=r"set of one example.*backbone\.bn=support"):
        learner(batch.support_x, batch.support_y, batch.query_x[:, :1])
    getattr(learner, "net", learner).body.bn = "support"
    expected = learner.predict(batch)
    for number, query in enumerate(batch.query_x.split(1, 1)):
        close(learner(batch.support_x, batch.support_y, query), expected[:, number : number + 1])


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("regression", [False, True])
def test_steps_sum_losses_and_score_each_task(regression, tasks, monkeypatch):
    """Adam sees the sum over the meta-batch, the log the mean, and the test one score and number a task."""
    learner = make("lstm", "mlp", None, regression, **SET)
    batch = episode(learner, tasks)._replace(tasks=torch.arange(7, 7 + tasks))
    logged = {}
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
    assert logged["val/loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert logged[f"val/{metric}"] == logged[f"test/{metric}"] == pytest.approx(np.mean(scores), rel=1e-6)
    numbers, kept, *_ = learner.test_rows.compute().T.tolist()
    assert kept == pytest.approx(scores, rel=1e-6)
    assert numbers == [7, 8, 9][:tasks]


def test_optimizer_is_plain_adam_over_everything():
    """Protocol: Adam, default betas, no weight decay, all parameters, the stated lr."""
    learner = make_named("oplstm-released", "fc")
    optimizer = learner.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    assert {id(p) for p in group["params"]} == {id(p) for p in learner.parameters()}


@EVERY
def test_gradient_accumulation_has_the_same_gradients(name, backbone):
    learner = make_named(name, backbone)
    if learner.lr is None:
        return
    batch = episode(learner, tasks=3)
    expected = losses_and_gradient(learner, batch)
    learner.zero_grad()
    losses, predictions = accumulated(learner, batch, 2)
    losses.sum().backward()
    found = losses, predictions, *(p.grad for p in learner.parameters())
    for here, there in zip(found, expected, strict=True):
        close(here, there, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["protonet", "maml", "warpmaml", "lstm-set", "oplstm-text"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_prediction_that_is_not_finite_gives_nan(name, value, monkeypatch):
    learner = make_named(name, "fc")
    batch = episode(learner, tasks=2)
    place = tuple(torch.tensor([i]) for i in (1, 2, 0))

    def spoil(predictions):
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


def test_the_nearest_neighbour_of_every_query():
    batch = episode(make("protonet", "conv4", lr=1e-3), tasks=3, shots=2, queries=4)
    expected = []
    for b in range(3):
        right = 0
        for x, label in zip(batch.query_x[b], batch.query_y[b], strict=True):
            distances = [float(((x - other) ** 2).sum()) for other in batch.support_x[b]]
            right += int(batch.support_y[b][int(np.argmin(distances))] == label)
        expected.append(100 * right / len(batch.query_y[b]))
    assert baseline_scores(batch, Task((2, 8, 5), 3, False)).tolist() == pytest.approx(expected)


def test_the_mean_of_the_support_set():
    source = SineSource(0)
    batch = source.episode(source.draw("test", np.arange(4), 3, 5), 3)
    expected = [float(((batch.query_y[b] - sum(batch.support_y[b]) / 3) ** 2).mean()) for b in range(4)]
    assert torch.allclose(baseline_scores(batch, source.task), torch.tensor(expected))
