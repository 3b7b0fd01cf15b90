"""Meta-gradients against finite differences, and what single learners promise beside their equations."""

import pytest
import torch

from fewshot.errors import UserError
from tests.conftest import (
    BACKBONES,
    CLASSES,
    FC,
    MAML,
    OPLSTM,
    OPTIONS,
    RELEASED,
    SAP,
    TEXT,
    WARPMAML,
    episode,
    make,
    materialized,
)
from tests.test_learners import LEARNERS, RELEASED_OPLSTM, close, gradients, summed_loss


def check_gradient(learner, gradient, value):
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
        ("oplstm", "conv4", None, OPLSTM | TEXT | {"layers": "all"}),
        ("oplstm", "conv4", None, OPLSTM | TEXT | {"layers": "all", "unpooling": "even"}),
        ("oplstm", "conv4", None, LEARNERS["oplstm-all-preactivation"][1]),
        ("warp_oplstm", "conv4", None, OPLSTM | TEXT | {"layers": "all"}),
    ],
)
def test_meta_gradient_equals_finite_differences(method, backbone, bn, options):
    """A first-order, detached or BN-blind gradient fails here, in each tensor and in all together."""
    learner = make(method, backbone, bn, regression=backbone == "mlp", **options)
    batch = episode(learner, tasks=2)
    found = gradients(learner, batch)
    assert set(found) == {name for name, _ in learner.named_parameters()}
    check_gradient(learner, found, lambda: summed_loss(learner, batch))


@pytest.mark.parametrize("last_loss", [True, False])
@pytest.mark.parametrize("backbone", ["fc", "conv4"])
def test_warp_maml_base_gradient_equals_finite_differences(backbone, last_loss):
    """The initialisation's gradient is that of the loss after the last step, or of the sum over the steps."""
    learner = make("warpmaml", backbone, **WARPMAML | {"last_loss": last_loss, "inner_steps": 3})
    batch = episode(learner, tasks=2)
    base = {name: g for name, g in gradients(learner, batch).items() if ".warps." not in name}

    def value():
        total = torch.zeros(())
        for steps in [3] if last_loss else [1, 2, 3]:
            learner.inner_steps = steps
            total = total + summed_loss(learner, batch).detach()
        return total

    check_gradient(learner, base, value)


@pytest.mark.parametrize("backbone", ["fc", "conv4"])
def test_warp_maml_warp_gradient_equals_finite_differences(backbone):
    """The gradient of the warps is the sum over the steps of that of one step from where it starts."""
    learner = make("warpmaml", backbone, **WARPMAML | {"inner_steps": 3})
    batch = episode(learner, tasks=1)
    found = {name: g for name, g in gradients(learner, batch).items() if ".warps." in name}
    starts = [learner.initial_weights(1)]
    for _ in range(2):
        starts.append(learner.inner_step(starts[-1], batch.support_x, batch.support_y))
    starts = [
        {name: materialized(weight, 1).detach().clone() for name, weight in start.items()} for start in starts
    ]
    parameters = dict(learner.net.named_parameters())
    learner.inner_steps = 1

    def value():
        total = torch.zeros(())
        for start in starts:
            with torch.no_grad():
                for name, weight in start.items():
                    parameters[name].copy_(weight[0])
            total = total + summed_loss(learner, batch).detach()
        return total

    check_gradient(learner, found, value)


def test_maml_takes_other_steps_in_evaluation():
    learner = make("maml", "fc", **MAML | {"inner_steps": 1, "eval_inner_steps": 4})
    batch = episode(learner)
    trained, evaluated = learner.predict(batch), learner.eval().predict(batch)
    learner.train().inner_steps = 4
    close(evaluated, learner.predict(batch))
    assert (evaluated - trained).abs().max() > 1e-3


def test_what_is_not_adapted_is_not_copied():
    options = MAML | {"grad_clip_each": True, "adapt_head_only": True}
    assert sorted(make("maml", "conv4", **options).initial_weights(tasks=7)) == ["head.bias", "head.weight"]
    clipped = make("maml", "conv4", **options | {"grad_clip": 10.0})
    assert len(clipped.initial_weights(tasks=7)) == len(list(clipped.net.parameters()))


def test_meta_sgd_is_maml_with_learned_steps():
    plain, sgd = make("maml", "fc", **MAML), make("metasgd", "fc", **OPTIONS["metasgd"])
    sgd.net.load_state_dict(plain.net.state_dict())
    for size in sgd.step_sizes:
        size.data.fill_(MAML["inner_lr"])  # in float64
    batch = episode(plain)
    found = gradients(sgd, batch)
    close(sgd.predict(batch), plain.predict(batch))
    for name, gradient in gradients(plain, batch).items():
        close(found[name], gradient)
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    assert sgd.hparams["inner_lr"] == MAML["inner_lr"]
    with pytest.raises(UserError, match="MetaSGD: inner_steps=0: Input should be greater than or equal to 1"):
        make("metasgd", "fc", **OPTIONS["metasgd"] | {"inner_steps": 0})


@pytest.mark.parametrize(("backbone", "layers"), [("fc", "last"), ("conv4", "all")])
def test_warped_op_lstm_begins_as_op_lstm(backbone, layers):
    options = OPLSTM | TEXT | {"layers": layers}
    plain = make("oplstm", backbone, **options)
    warped = CLASSES["warp_oplstm"](plain.task, BACKBONES[backbone], **options).double()
    warped.load_state_dict(plain.state_dict(), strict=False)
    batch = episode(plain)
    close(warped.predict(batch), plain.predict(batch), rtol=1e-12, atol=1e-12)
    assert all(gradients(warped, batch)[f"warps.0.{name}"].abs().max() > 0 for name in ("weight", "bias"))


@pytest.mark.parametrize("gamma", [0.4, None])
@pytest.mark.parametrize("normalisation", ["example", "matrix", "joint", "none"])
@pytest.mark.parametrize(
    ("backbone", "preactivation", "layers"),
    [
        *(("fc", False, "last"), ("fc", True, "last"), ("mlp", False, "last"), ("conv4", False, "last")),
        *(("conv4", False, "all"), ("conv4", True, "all")),
    ],
)
def test_zero_update_is_no_step(backbone, preactivation, layers, normalisation, gamma):
    """0 / |0|: the released code gives NaN. Here H_T = H_0, and no gradient is NaN or infinite."""
    options = {"normalisation": normalisation, "preactivation": preactivation, "gamma": gamma}
    options = OPLSTM | RELEASED | options | {"layers": layers}
    learner = make("oplstm", backbone, regression=backbone == "mlp", **options)
    lstms = [learner.output_lstm, *([learner.hidden_lstm] if learner.hidden else [])]
    with torch.no_grad():
        for lstm in lstms:
            for parameter in lstm[-1].parameters():  # g = tanh(0) = 0, so c = h = 0
                parameter.zero_()
    batch = episode(learner)
    initial = learner.body(batch.query_x) @ learner.head.weight.T + learner.head.bias  # under H_0
    close(learner.predict(batch), initial, rtol=1e-12, atol=1e-12)
    found = gradients(learner, batch)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert found["head.weight"].abs().max() > 0  # the loss still reaches H_0


def test_gamma_is_learned_unless_null():
    learner = make("oplstm", "fc", **RELEASED_OPLSTM)
    made = CLASSES["oplstm"](learner.task, FC, **RELEASED_OPLSTM)
    assert made.gamma.item() == pytest.approx(0.4)
    assert make("oplstm", "fc", **RELEASED_OPLSTM | {"gamma": None}).gamma is None
