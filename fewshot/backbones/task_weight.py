"""Weights with a copy for each task: how they are made, clipped, moved and used by a network.

Shape suffixes: B tasks, M examples, K products, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.layers import linear, loop_over_tasks

Products = tuple[Tensor, Tensor]
SMALL = 2**14  # numbers in all tasks' weights


class TaskWeight:
    """base + hᵀ a for each task; `base` is (O, I), or (B, O, I) if products would cost more than that.

    `products` are h (B, K, O) and a (B, K, I). `shift` (B, M, O) is added to the outputs.
    """

    def __init__(self, base: Tensor, products: Products | None = None, shift: Tensor | None = None) -> None:
        self.base, self.products, self.shift = base, products, shift

    def linear(self, x_BMI: Tensor, bias: Tensor) -> Tensor:
        """x Wᵀ + b, (B, M, O)."""
        y_BMO = linear(x_BMI, self.base, bias)
        if self.products:
            h_BKO, a_BKI = self.products
            y_BMO = torch.baddbmm(y_BMO, x_BMI @ a_BKI.mT, h_BKO)
        self.inputs = x_BMI
        return y_BMO if self.shift is None else y_BMO + self.shift

    def transposed(self, y_BMO: Tensor) -> Tensor:
        """y W, (B, M, I): the message from a layer's outputs to the layer below."""
        x_BMI = y_BMO @ self.base
        if not self.products:
            return x_BMI
        h_BKO, a_BKI = self.products
        return torch.baddbmm(x_BMI, y_BMO @ h_BKO.mT, a_BKI)

    def plus(self, h_BMO: Tensor, a_BMI: Tensor, scale: Any = None) -> TaskWeight:
        """The weight moved by hᵀ a, the sum of the outer products of the examples, times `scale` if given."""
        h_BMO = h_BMO if scale is None else h_BMO * scale
        if self.products:
            h_BMO, a_BMI = (torch.cat(parts, 1) for parts in zip(self.products, (h_BMO, a_BMI), strict=True))
        tasks, products, outputs = h_BMO.shape
        if self.base.dim() == 2 and fewer(tasks, products, outputs, a_BMI.shape[2]):
            return TaskWeight(self.base, (h_BMO, a_BMI))
        return TaskWeight(torch.baddbmm(self.base.expand(tasks, -1, -1), h_BMO.mT, a_BMI))

    def square(self, h_BMO: Tensor, a_BMI: Tensor) -> Tensor:
        """‖hᵀ a‖² of each task, (B,), without hᵀ a."""
        return ((h_BMO @ h_BMO.mT) * (a_BMI @ a_BMI.mT)).sum((1, 2))

    def unit(self, h_BMO: Tensor, a_BMI: Tensor) -> Products:
        """h and a such that each example's outer product has norm 1, as it is ‖h‖ ‖a‖; zero stays zero."""
        return F.normalize(h_BMO, dim=-1), F.normalize(a_BMI, dim=-1)

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


Tensors = dict[str, Tensor]  # by name
Weights = dict[str, Any]  # by name: tensors, and `TaskWeight`s of linear layers


class ClippedCopies(torch.autograd.Function):
    """A parameter once a task, (B, ...); its gradient is the sum of the tasks', clipped after each."""

    @staticmethod
    def forward(parameter: Tensor, tasks: int, _: float) -> Tensor:
        return parameter.expand(tasks, *parameter.shape).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, float], _: Tensor) -> None:
        ctx.clip = inputs[2]

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, None, None]:
        total = torch.zeros_like(grads[0])
        for grad in grads.unbind():
            total = (total + grad).clamp(-ctx.clip, ctx.clip)
        return total, None, None


def gradients(loss: Callable[[Tensors], Any], at: Tensors, create_graph: bool) -> tuple[Tensors, Any]:
    """The gradient of a function's first result at tensors by name, and its second result.

    Torch compiles gradients of gradients correctly only if torch.func takes them, which is slower elsewhere.
    """
    if torch.compiler.is_compiling():
        grads, other = torch.func.grad(loss, has_aux=True)(at)
        return grads if create_graph else {name: grad.detach() for name, grad in grads.items()}, other
    with torch.enable_grad():
        value, other = loss({name: tensor.requires_grad_() for name, tensor in at.items()})
        found = torch.autograd.grad(value, [*at.values()], create_graph=create_graph, materialize_grads=True)
    return dict(zip(at, found, strict=True)), other


def functional_call(net: Any, weights: Weights, x: Tensor, reference: int | None = None) -> Tensor:
    """The predictions of `net` with the given weights, with a leading task axis or shared by all tasks."""
    if net.body.flat or not loop_over_tasks(x):
        with swapped(net, weights):
            return net(x, reference)
    own = dict(net.named_parameters())
    copied = {name: w.unbind() for name, w in weights.items() if w.dim() > own[name].dim()}
    predictions = []
    for task, task_x in enumerate(x.split(1)):
        with swapped(net, weights | {name: copies[task] for name, copies in copied.items()}):
            predictions.append(net(task_x, reference))
    return torch.cat(predictions)


@contextmanager
def swapped(net: nn.Module, weights: Weights) -> Iterator[None]:
    """Inside, `net` has these weights, by name, in the place of its parameters."""
    own = dict(net.named_parameters(remove_duplicate=False))
    put(net, weights)
    try:
        yield
    finally:
        put(net, {name: own[name] for name in weights})


def put(net: nn.Module, weights: Weights) -> None:
    for name, weight in weights.items():
        parent, _, last = name.rpartition(".")
        net.get_submodule(parent)._parameters[last] = weight
