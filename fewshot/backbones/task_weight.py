"""Weights with a copy for each task: how they are made, clipped, moved and used by a network.

Shape suffixes: B tasks, M examples, K products, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewshot.backbones.layers import linear, loop_over_tasks

SMALL = 2**14  # numbers in all tasks' weights


class TaskWeight:
    """base + hᵀ a for each task; `base` is (O, I), or (B, O, I) if products would cost more than that.

    `products` are h (B, K, O) and a (B, K, I).
    """

    def __init__(self, base: Tensor, products: tuple[Tensor, Tensor] | None = None) -> None:
        self.base, self.products = base, products
        self.seen: tuple[Tensor, Tensor] = (base, base)  # inputs and outputs of the last use

    def linear(self, x_BMI: Tensor, bias: Tensor) -> Tensor:
        """x Wᵀ + b, (B, M, O)."""
        y_BMO = linear(x_BMI, self.base, bias)
        if self.products:
            h_BKO, a_BKI = self.products
            y_BMO = torch.baddbmm(y_BMO, x_BMI @ a_BKI.mT, h_BKO)
        self.seen = x_BMI, y_BMO
        return y_BMO

    def transposed(self, y_BMO: Tensor) -> Tensor:
        """y W, (B, M, I): the message from a layer's outputs to the layer below."""
        x_BMI = y_BMO @ self.base
        if not self.products:
            return x_BMI
        h_BKO, a_BKI = self.products
        return torch.baddbmm(x_BMI, y_BMO @ h_BKO.mT, a_BKI)

    def plus(self, h_BMO: Tensor, a_BMI: Tensor) -> TaskWeight:
        """The weight moved by hᵀ a, the sum of the outer products of the examples."""
        if self.products:
            h_BMO, a_BMI = (torch.cat(parts, 1) for parts in zip(self.products, (h_BMO, a_BMI), strict=True))
        tasks, products, outputs = h_BMO.shape
        if self.base.dim() == 2 and fewer(tasks, products, outputs, a_BMI.shape[2]):
            return TaskWeight(self.base, (h_BMO, a_BMI))
        return TaskWeight(torch.baddbmm(self.base.expand(tasks, -1, -1), h_BMO.mT, a_BMI))

    def detach(self) -> TaskWeight:
        products = (self.products[0].detach(), self.products[1].detach()) if self.products else None
        return TaskWeight(self.base.detach(), products)

    def materialize(self, tasks: int) -> Tensor:
        """The weights themselves, (B, O, I)."""
        base = self.base.expand(tasks, *self.base.shape[-2:])
        return base + self.products[0].mT @ self.products[1] if self.products else base


def fewer(tasks: int, products: int, outputs: int, inputs: int) -> bool:
    """Whether products are less work than a weight per task: fewer numbers, and large enough weights."""
    return products * (outputs + inputs) < outputs * inputs and tasks * outputs * inputs > SMALL


Weights = dict[str, Any]  # by name: tensors, and `TaskWeight`s of linear layers


def copies(parameter: Tensor, tasks: int, clip: float | None) -> Tensor:
    """A parameter repeated along a new first axis, (B, ...).

    With `clip`, its meta-gradient is the sum of the tasks' gradients, clipped after each.
    """

    repeated = parameter.expand(tasks, *parameter.shape)
    if clip is not None:

        def clipped_sum(grads: Tensor) -> Tensor:
            """In the first row, with zeros below: autograd adds them up."""
            total = torch.zeros_like(grads)
            for grad in grads:
                total[0].add_(grad).clamp_(-clip, clip)
            return total

        repeated.register_hook(clipped_sum)
    # the inner loop differentiates with respect to a view: its gradients do not pass the hook
    return repeated.view_as(repeated)


def leaf(weight: Any) -> Any:
    """The weight without its graph, to be differentiated."""
    return weight.detach() if isinstance(weight, TaskWeight) else weight.detach().requires_grad_()


def functional_call(net: Any, weights: Weights, x: Tensor, reference: int | None = None) -> Tensor:
    """The predictions of `net` with the given weights, with a leading task axis or shared by all tasks."""
    parts = [(x, weights)]
    if not net.body.flat and loop_over_tasks(x):
        copies = {n: w.unbind() for n, w in weights.items() if w.dim() > net.get_parameter(n).dim()}
        own = [{n: copy[task] for n, copy in copies.items()} for task in range(len(x))]
        parts = [(task_x, weights | of_task) for task_x, of_task in zip(x.split(1), own, strict=True)]
    predictions: list[Tensor] = []
    before: Weights = {}
    try:
        for part_x, part_weights in parts:
            before = swap(net, part_weights) | before
            predictions.append(net(part_x, reference))
    finally:
        swap(net, before)
    return torch.cat(predictions) if len(parts) > 1 else predictions[0]


def swap(net: nn.Module, weights: Weights) -> Weights:
    """Puts weights, by name, in the place of parameters of `net`, and returns what was there."""
    before: Weights = {}
    for name, weight in weights.items():
        parent, _, last = name.rpartition(".")
        parameters = net.get_submodule(parent)._parameters
        before[name], parameters[last] = parameters[last], weight
    return before
