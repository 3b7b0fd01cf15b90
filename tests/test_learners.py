"""What every learner must be whatever its arithmetic: independence of tasks, symmetries, learning."""

import pytest
import torch

from fewshot.errors import UserError
from tests.conftest import LSTM, MAML, OPLSTM, RELEASED, SAP, TEXT, WARPMAML, episode, make

SET = LSTM | {"support_mode": "set", "pool_cell": True, "query_cell": True}
SEQUENCE = LSTM | {"support_mode": "sequence", "pool_cell": False, "query_cell": False}
RELEASED_OPLSTM = OPLSTM | RELEASED | {"normalisation": "joint"}
LEARNERS = {
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
EVERY = pytest.mark.parametrize(("name", "backbone"), ALL)


def make_named(name, backbone, bn=None):
    method, options = LEARNERS[name]
    return make(method, backbone, bn, regression=backbone == "mlp" and method != "protonet", **options)


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
    learner.body.bn = "support"
    expected = learner.predict(batch)
    for number, query in enumerate(batch.query_x.split(1, 1)):
        close(learner(batch.support_x, batch.support_y, query), expected[:, number : number + 1])
