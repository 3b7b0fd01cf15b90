"""Every learner equals the plain loops of `reference` in float64: predictions and meta-gradients."""

import pytest
import torch

from tests import reference
from tests.conftest import (
    LSTM,
    MAML,
    OPLSTM,
    OPTIONS,
    RELEASED,
    SAP,
    TEXT,
    WARP_OPLSTM,
    WARPMAML,
    episode,
    make,
)

BACKBONES = ("mlp", None), ("fc", None), ("conv4", None), ("fc", "support"), ("conv4", "support")
OWN_STATISTICS = BACKBONES[:3]
CASES = []


def add(method, backbones, *variants):
    """Cases of a method's options; the MLP is for regression."""
    CASES.extend((method, *backbone, options) for backbone in backbones for options in variants)


EACH = {"grad_clip": 0.05, "grad_clip_each": True}
add("protonet", BACKBONES[1:], {"lr": 1e-3})
add("ridge", BACKBONES, OPTIONS["ridge"])
add("deltanet", BACKBONES, OPTIONS["deltanet"])
add("reptile", BACKBONES, OPTIONS["reptile"])
add("metasgd", BACKBONES, OPTIONS["metasgd"])
CENTROID = OPTIONS["nearest_centroid"]
COSINE = {"distance": "cosine", "normalise": False}
add("nearest_centroid", BACKBONES[1:], CENTROID, CENTROID | {"normalise": False}, COSINE)
add("logistic", BACKBONES[1:], OPTIONS["logistic"])
add("maml", BACKBONES, MAML)
add("maml", OWN_STATISTICS, MAML | {"adapt_head_only": True})
add("maml", [("fc", None)], MAML | {"first_order": True}, MAML | {"grad_clip": 0.05}, MAML | EACH)
add("maml", [("fc", None)], MAML | EACH | {"adapt_head_only": True})
add("warpmaml", BACKBONES, WARPMAML, WARPMAML | {"last_loss": True})
add("sap", BACKBONES, SAP, SAP | {"centred": False})
for method, options in (("warpmaml", WARPMAML), ("sap", SAP)):
    add(method, [("conv4", None)], options | {"first_order": True})
    add(method, [("fc", None)], options | {"grad_clip": 0.05})

for inputs in ("prev_target", "prev_target_pred", "prev_target_err", "prev_target_pred_err"):
    options = LSTM | {"support_mode": "sequence", "inputs": inputs, "pool_cell": False, "query_cell": False}
    add("lstm", [("mlp", None)], options)
    add("lstm", [("fc", None)], options | {"query_cell": True})
add("lstm", [("conv4", None)], options)
for support in ("set", "sequence"):
    for pool_cell, query_cell in ((False, False), (True, True), (True, False)):
        options = LSTM | {"support_mode": support, "pool_cell": pool_cell, "query_cell": query_cell}
        add("lstm", [("fc", None)], options)
        add("lstm", [("mlp", None)], options | {"first_labels": support == "sequence"})
    add("lstm", [("conv4", None), ("conv4", "support")], options)

PLAIN = OPLSTM | RELEASED | {"normalisation": "none", "gamma": None}
NORMALISED = [OPLSTM | RELEASED | {"normalisation": n} for n in ("example", "matrix", "joint", "none")]
add("oplstm", OWN_STATISTICS, *NORMALISED, OPLSTM | TEXT, OPLSTM | TEXT | {"detach": True}, PLAIN)
for options in NORMALISED:
    add("oplstm", [("fc", None), ("fc", "support")], options | {"gamma": None, "preactivation": True})
add("oplstm", [("fc", "support"), ("conv4", "support")], OPLSTM | TEXT)
add("oplstm", [("conv4", None)], NORMALISED[1] | {"scalar_bias": True})
SHORT = {"layers": "all", "passes": 2}
add("oplstm", [("conv4", None), ("conv4", "support")], OPLSTM | TEXT | SHORT)
for options in (NORMALISED[1], NORMALISED[2] | {"preactivation": True}, PLAIN | {"detach": True}):
    add("oplstm", [("conv4", None)], options | SHORT)
EVEN = SHORT | {"unpooling": "even"}
add("oplstm", [("conv4", None)], OPLSTM | TEXT | EVEN, NORMALISED[1] | EVEN | {"preactivation": True})
add("warp_oplstm", [("fc", None), ("mlp", None)], WARP_OPLSTM, OPLSTM | TEXT)
add("warp_oplstm", [("conv4", None), ("conv4", "support")], OPLSTM | TEXT | SHORT)


def close(found, expected, name="", rtol=1e-09, atol=1e-10):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize(("method", "backbone", "bn", "options"), CASES)
def test_learner_equals_reference(method, backbone, bn, options, monkeypatch):
    learner = make(method, backbone, bn, backbone == "mlp", **options)
    batch = episode(learner)
    for size in getattr(learner, "step_sizes", []):  # Meta-SGD's begin equal
        size.data.uniform_(0.1, 0.5)
    settings = {"method": method, "backbone": backbone, "bn": bn, "ways": learner.task.outputs} | options
    state = {name.removeprefix("net."): p.detach().clone() for name, p in learner.named_parameters()}
    expected = reference.predict(state, settings, batch.support_x, batch.support_y, batch.query_x)
    gradient = {} if learner.lr is None else reference.meta_gradient(state, settings, *batch[:4])

    check(learner, batch, expected, gradient)
    if method not in ("lstm", "protonet") or backbone == "conv4":
        # as large layers are computed, whose weights are kept as products, and images on a GPU, all together
        monkeypatch.setattr("fewshot.backbones.task_weight.fewer", lambda *_: True)
        for module in ("blocks", "task_weight"):
            monkeypatch.setattr(f"fewshot.backbones.{module}.loop_over_tasks", lambda _: False)
        learner.zero_grad()
        check(learner, batch, expected, gradient)


def check(learner, batch, expected, gradient):
    """Predictions, losses and meta-gradient, and predictions without a graph, as in validation."""
    learner.train()
    close(learner.predict(batch), expected)
    if not gradient:  # it is not trained
        return
    losses, of_training = learner.losses(batch)
    close(of_training, expected)
    close(losses, learner.task_losses(expected, batch.query_y))
    losses.sum().backward()
    learner.on_before_optimizer_step(learner.configure_optimizers())
    for name, parameter in learner.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        close(found, gradient[name.removeprefix("net.")], name, rtol=1e-7, atol=1e-9)

    learner.eval()
    with torch.no_grad():
        evaluated = learner.predict(batch)
    assert not evaluated.requires_grad
    close(evaluated, expected)
