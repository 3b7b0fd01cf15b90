"""Weights with a copy for each task: how they are made, clipped, moved and used by a network.

Shape suffixes: B tasks, M examples, K products, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    """A parameter repeated along a new first axis, (B, ...); `clip`: its meta-gradient is a `clipped_sum`."""
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


def leaf(weight: Any) -> Any:
    """The weight without its graph, to be differentiated."""
    return weight.detach() if isinstance(weight, TaskWeight) else weight.detach().requires_grad_()


def functional_call(net: Any, weights: Weights, x: Tensor, reference: int | None = None) -> Tensor:
    """The predictions of `net` with the given weights, with a leading task axis or shared by all tasks."""
    if net.body.flat or not loop_over_tasks(x):
        with swapped(net, weights):
            return net(x, reference)
    per_task = {name: w for name, w in weights.items() if w.dim() > net.get_parameter(name).dim()}
    copies = {name: weight.unbind() for name, weight in per_task.items()}
    predictions = []
    for number, task_x in enumerate(x.split(1)):
        with swapped(net, weights | {name: copy[number] for name, copy in copies.items()}):
            predictions.append(net(task_x, reference))
    return torch.cat(predictions)


@contextmanager
def swapped(net: nn.Module, weights: Weights) -> Iterator[None]:
    """Within, `net` has these weights, by name, in place of its parameters."""
    names = [name.rpartition(".") for name in weights]
    places = [(net.get_submodule(parent)._parameters, last) for parent, _, last in names]
    before = [parameters[last] for parameters, last in places]

    def place(values: Iterable[Any]) -> None:
        for (parameters, last), value in zip(places, values, strict=True):
            parameters[last] = value

    place(weights.values())
    try:
        yield
    finally:
        place(before)
