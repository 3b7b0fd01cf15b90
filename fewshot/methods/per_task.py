"""Weights with a copy for each task: how the copies are made, clipped and used by a network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewshot.backbones.layers import loop_over_tasks
from fewshot.backbones.task_weight import TaskWeight, swap_parameters

Weight = Tensor | TaskWeight
Weights = dict[str, Weight]  # by name


def copies(parameter: Tensor, tasks: int, clip: float | None) -> Tensor:
    """A parameter repeated along a new first axis, (B, ...).

    With `clip` a hook replaces the copies' meta-gradients, which autograd adds up, by their clipped sum.
    """
    repeated = parameter.expand(tasks, *parameter.shape)
    if clip is not None:
        repeated.register_hook(lambda grads: clipped_sum(grads, clip))
    # the inner loop differentiates with respect to a view: its gradients do not pass the hook
    return repeated.view_as(repeated)


def clipped_sum(grads: Tensor, clip: float) -> Tensor:
    """The sum of the tasks' gradients (B, ...), clipped after each, in the first row, and zeros below."""
    total = torch.zeros_like(grads)
    for grad in grads:
        total[0].add_(grad).clamp_(-clip, clip)
    return total


def leaf(weight: Weight) -> Weight:
    """The weight without its graph, to be differentiated."""
    return weight.detach() if isinstance(weight, TaskWeight) else weight.detach().requires_grad_()


def functional_call(
    net: nn.Module, weights: Weights, per_task: Sequence[str], x: Tensor, reference: int | None = None
) -> Tensor:
    """The predictions of `net` with the given weights; those named in `per_task` have a leading task axis."""
    if net.body.flat or not loop_over_tasks(x):  # type: ignore[union-attr]
        with swap_parameters(net, weights):
            return net(x, reference)
    copies = {name: weights[name].unbind() for name in per_task}  # type: ignore[union-attr]
    predictions = []
    for number, task_x in enumerate(x.split(1)):
        own = {name: copy[number] for name, copy in copies.items()}
        with swap_parameters(net, weights | own):
            predictions.append(net(task_x, reference))
    return torch.cat(predictions)
