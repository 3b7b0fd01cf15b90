"""A linear layer's weight with a copy for each task, without the copies where that is less work.

Shape suffixes: B tasks, M examples, K products, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fewshot.backbones.layers import linear

SMALL = 2**14  # numbers in all tasks' weights


class TaskWeight:
    """base + hᵀ a for each task; `base` is (O, I), or (B, O, I) if products would cost more than that."""

    def __init__(self, base: Tensor, h_BKO: Tensor | None = None, a_BKI: Tensor | None = None) -> None:
        self.base, self.h_BKO, self.a_BKI = base, h_BKO, a_BKI
        self.seen: tuple[Tensor, Tensor] = (base, base)  # inputs and outputs of the last use

    def linear(self, x_BMI: Tensor, bias: Tensor) -> Tensor:
        """x Wᵀ + b, (B, M, O)."""
        y_BMO = linear(x_BMI, self.base, bias)
        if self.h_BKO is not None and self.a_BKI is not None:
            y_BMO = torch.baddbmm(y_BMO, x_BMI @ self.a_BKI.mT, self.h_BKO)
        self.seen = x_BMI, y_BMO
        return y_BMO

    def transposed(self, y_BMO: Tensor) -> Tensor:
        """y W, (B, M, I): the message from a layer's outputs to the layer below."""
        x_BMI = y_BMO @ self.base
        if self.h_BKO is None or self.a_BKI is None:
            return x_BMI
        return torch.baddbmm(x_BMI, y_BMO @ self.h_BKO.mT, self.a_BKI)

    def plus(self, h_BMO: Tensor, a_BMI: Tensor) -> TaskWeight:
        """The weight moved by hᵀ a, the sum of the outer products of the examples."""
        if self.h_BKO is not None and self.a_BKI is not None:
            h_BMO, a_BMI = torch.cat([self.h_BKO, h_BMO], 1), torch.cat([self.a_BKI, a_BMI], 1)
        tasks, products, outputs = h_BMO.shape
        if self.base.dim() == 2 and fewer(tasks, products, outputs, a_BMI.shape[2]):
            return TaskWeight(self.base, h_BMO, a_BMI)
        return TaskWeight(torch.baddbmm(self.base.expand(len(h_BMO), -1, -1), h_BMO.mT, a_BMI))

    def detach(self) -> TaskWeight:
        parts = [None if part is None else part.detach() for part in (self.h_BKO, self.a_BKI)]
        return TaskWeight(self.base.detach(), *parts)

    def materialize(self, tasks: int) -> Tensor:
        """The weights themselves, (B, O, I)."""
        base = self.base.expand(tasks, *self.base.shape[-2:])
        return base if self.h_BKO is None or self.a_BKI is None else base + self.h_BKO.mT @ self.a_BKI


def fewer(tasks: int, products: int, outputs: int, inputs: int) -> bool:
    """Whether products are less work than a weight per task: fewer numbers, and large enough weights."""
    return products * (outputs + inputs) < outputs * inputs and tasks * outputs * inputs > SMALL


@contextmanager
def swap_parameters(net: nn.Module, weights: Mapping[str, Tensor | TaskWeight]) -> Iterator[None]:
    """Within, `net` has these weights, by name, in place of its parameters."""
    names = [name.rpartition(".") for name in weights]
    places = [(net.get_submodule(parent)._parameters, last) for parent, _, last in names]
    before = [parameters[last] for parameters, last in places]
    try:
        for (parameters, last), weight in zip(places, weights.values(), strict=True):
            parameters[last] = weight  # type: ignore[assignment]
        yield
    finally:
        for (parameters, last), parameter in zip(places, before, strict=True):
            parameters[last] = parameter


def squared_norm(h_BMO: Tensor, a_BMI: Tensor) -> Tensor:
    """|hᵀ a|², (B, 1, 1), without hᵀ a."""
    return ((h_BMO @ h_BMO.mT) * (a_BMI @ a_BMI.mT)).sum((1, 2), keepdim=True)
