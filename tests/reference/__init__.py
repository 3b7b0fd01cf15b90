"""Slow reference of the learners, as Python loops from the paper's equations and the settled protocol.

It shares no code with what it tests and can be checked by eye. `state` maps parameter names to tensors,
`options` names method, backbone and variant; everything is differentiable with respect to the state.
"""

import torch

from tests.reference.gradient import maml_task, protonet_task, reptile_gradient, warpmaml_gradient
from tests.reference.lstm import lstm_task
from tests.reference.networks import gradient_by_name, task_loss
from tests.reference.oplstm import oplstm_task
from tests.reference.rivals import centroid_task, deltanet_task, logistic_task, ridge_task


def predict(state, options, support_x, support_y, query_x):
    """Predictions (B, Q, out) of `options["method"]` for every query of every task."""
    learners = {"oplstm": oplstm_task, "lstm": lstm_task, "protonet": protonet_task}
    learners |= {"warp_oplstm": oplstm_task, "ridge": ridge_task, "deltanet": deltanet_task}
    learners |= {"nearest_centroid": centroid_task, "logistic": logistic_task}
    learner = learners.get(options["method"], maml_task)
    tasks = range(len(support_x))
    return torch.stack([learner(state, options, support_x[b], support_y[b], query_x[b]) for b in tasks])


def meta_gradient(state, options, support_x, support_y, query_x, query_y):
    """Gradient of the sum of the task losses by name, task after task.

    MAML clamps it after every task or once (grad_clip_each), Warp-MAML and SAP once. Warp-MAML's is not the
    gradient of the loss: see warpmaml_gradient.
    """
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in state.items()}
    total = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in state.items()}
    clamp, last = options.get("grad_clip"), len(support_x) - 1
    for b in range(len(support_x)):
        task = support_x[b], support_y[b], query_x[b]
        if options["method"] == "warpmaml":
            gradients = warpmaml_gradient(state, options, *task, query_y[b])
        elif options["method"] == "reptile":
            gradients = reptile_gradient(state, options, *task[:2])
        else:
            prediction = predict(state, options, *(part[None] for part in task))[0]
            gradients = gradient_by_name(task_loss(prediction, query_y[b]), state)
        for name, gradient in gradients.items():
            total[name] = total[name] + gradient
        if clamp is not None and (b == last or options.get("grad_clip_each")):
            total = {name: gradient.clamp(-clamp, clamp) for name, gradient in total.items()}
    return total
