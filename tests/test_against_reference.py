"""Every learner equals the plain loops of reference.py in float64: predictions and meta-gradients, all
options."""

import pytest
import torch

from fewshot.methods.base import MetaLearner
from tests import reference
from tests.conftest import LSTM, MAML, OPLSTM, RELEASED, SAP, TEXT, WARPMAML, episode, make

CASES: list[tuple[str, str, str | None, bool, dict]] = [
    ("protonet", "fc", None, False, {"lr": 1e-3}),
    ("protonet", "fc", "support", False, {"lr": 1e-3}),
    ("protonet", "conv4", None, False, {"lr": 1e-3}),
    ("protonet", "conv4", "support", False, {"lr": 1e-3}),
    ("maml", "mlp", None, True, MAML),
    ("maml", "fc", None, False, MAML),
    ("maml", "fc", "support", False, MAML),
    ("maml", "fc", None, False, MAML | {"first_order": True}),
    ("maml", "fc", None, False, MAML | {"grad_clip": 0.05, "grad_clip_each": True}),
    ("maml", "fc", None, False, MAML | {"grad_clip": 0.05, "grad_clip_each": False}),
    ("maml", "conv4", None, False, MAML),
    ("maml", "conv4", "support", False, MAML),
]
CASES += [("maml", b, None, b == "mlp", MAML | {"adapt_head_only": True}) for b in ("fc", "mlp", "conv4")]
CASES += [
    ("maml", "fc", None, False, MAML | {"adapt_head_only": True, "grad_clip": 0.05, "grad_clip_each": True})
]
for backbone, bn in (("fc", None), ("fc", "support"), ("conv4", None), ("conv4", "support"), ("mlp", None)):
    for last_loss in (False, True):
        CASES.append(("warpmaml", backbone, bn, backbone == "mlp", WARPMAML | {"last_loss": last_loss}))
    for centred in (False, True):
        CASES.append(("sap", backbone, bn, backbone == "mlp", SAP | {"centred": centred}))
for method, options in (("warpmaml", WARPMAML), ("sap", SAP)):
    CASES += [(method, "conv4", None, False, options | {"first_order": True})]
    CASES += [(method, "fc", None, False, options | {"grad_clip": 0.05})]
for inputs in ("prev_target", "prev_target_pred", "prev_target_err", "prev_target_pred_err"):
    options = LSTM | {"support_mode": "sequence", "inputs": inputs, "pool_cell": False, "query_cell": False}
    CASES += [
        ("lstm", "mlp", None, True, options),
        ("lstm", "fc", None, False, options | {"query_cell": True}),
    ]
CASES += [("lstm", "conv4", None, False, options)]
for support in ("set", "sequence"):
    for pool_cell, query_cell in ((False, False), (True, True), (True, False)):
        options = LSTM | {"support_mode": support, "pool_cell": pool_cell, "query_cell": query_cell}
        CASES.append(("lstm", "fc", None, False, options))
        CASES.append(("lstm", "mlp", None, True, options | {"first_labels": support == "sequence"}))
    CASES.append(("lstm", "conv4", None, False, options))
    CASES.append(("lstm", "conv4", "support", False, options))
for backbone, regression in (("mlp", True), ("fc", False), ("conv4", False)):
    for normalisation in ("example", "matrix", "joint", "none"):
        options = OPLSTM | RELEASED | {"normalisation": normalisation}
        CASES.append(("oplstm", backbone, None, regression, options))
    CASES.append(("oplstm", backbone, None, regression, OPLSTM | TEXT))
    CASES.append(("oplstm", backbone, None, regression, OPLSTM | TEXT | {"detach": True}))
    CASES.append(
        ("oplstm", backbone, None, regression, OPLSTM | RELEASED | {"normalisation": "none", "gamma": None})
    )
CASES += [
    (
        "oplstm",
        "fc",
        bn,
        False,
        OPLSTM | RELEASED | {"normalisation": n, "gamma": None, "preactivation": True},
    )
    for n in ("none", "example", "matrix", "joint")
    for bn in ("transductive", "support")
]
CASES += [
    ("oplstm", "fc", "support", False, OPLSTM | TEXT),
    ("oplstm", "conv4", "support", False, OPLSTM | TEXT),
    ("oplstm", "conv4", None, False, OPLSTM | RELEASED | {"normalisation": "matrix", "scalar_bias": True}),
]


def reference_options(learner: MetaLearner, backbone: str, bn: str | None, options: dict) -> dict:
    settings = dict(options) | {
        "backbone": backbone,
        "bn": bn or "transductive",
        "ways": learner.task.outputs,
    }
    return settings | {"outer_clamp": "each" if options.get("grad_clip_each") else "sum"}


def reference_state(learner: MetaLearner) -> dict[str, torch.Tensor]:
    return {name.removeprefix("net."): p.detach().clone() for name, p in learner.named_parameters()}


OTHER_WAY = [case for case in CASES if case[0] not in ("lstm", "protonet") or case[1] == "conv4"]


@pytest.mark.parametrize(
    ("method", "backbone", "bn", "regression", "options"), OTHER_WAY, ids=range(len(OTHER_WAY))
)
def test_the_other_way_equals_reference(
    method: str,
    backbone: str,
    bn: str | None,
    regression: bool,
    options: dict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As large layers are computed, whose weights of a task are kept as products, and images on a GPU, all
    together."""
    monkeypatch.setattr("fewshot.backbones.task_weight.fewer", lambda *_: True)
    for module in ("backbones.blocks", "methods.per_task"):
        monkeypatch.setattr(f"fewshot.{module}.loop_over_tasks", lambda _: False)
    test_learner_equals_reference(method, backbone, bn, regression, options)


@pytest.mark.parametrize(("method", "backbone", "bn", "regression", "options"), CASES, ids=range(len(CASES)))
def test_learner_equals_reference(
    method: str, backbone: str, bn: str | None, regression: bool, options: dict
) -> None:
    learner = make(method, backbone, bn, regression, **options)
    batch = episode(learner)
    settings, state = reference_options(learner, backbone, bn, options), reference_state(learner)
    expected = reference.predict(method, state, settings, batch.support_x, batch.support_y, batch.query_x)
    predictions = learner.predict(batch)
    torch.testing.assert_close(predictions, expected, rtol=1e-9, atol=1e-10)

    losses, of_training = learner.losses(batch)
    torch.testing.assert_close(of_training, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(losses, learner.task_losses(expected, batch.query_y), rtol=1e-9, atol=1e-10)
    losses.sum().backward()
    learner.on_before_optimizer_step(learner.configure_optimizers())
    gradient = reference.meta_gradient(method, state, settings, *batch[:4])
    for name, parameter in learner.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(
            found,
            gradient[name.removeprefix("net.")],
            rtol=1e-7,
            atol=1e-9,
            msg=lambda m, name=name: f"{name}: {m}",
        )

    learner.eval()  # without a graph, as in validation and test
    with torch.no_grad():
        torch.testing.assert_close(learner.predict(batch), expected, rtol=1e-9, atol=1e-10)
