"""OP-LSTM's update (Eq. 14): H_(t+1) = H_t + gamma · the mean outer product h aᵀ of the examples, normalised.

An update is a pair of factors, h (B, M, O) and a (B, M, I), whose product hᵀ a is (B, O, I).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.backbones.task_weight import TaskWeight, squared_norm

Normalisation = Literal["example", "matrix", "joint", "none"]
Factors = tuple[Tensor, Tensor]


def mean_outer_product(
    h_BMO: Tensor, a_BMI: Tensor, scale: Tensor | None, normalisation: Normalisation
) -> Factors:
    """Factors of the mean outer product over the support set; `scale` multiplies its rows, (B, 1, O)."""
    if normalisation == "example":  # ‖h aᵀ‖ = ‖h‖ ‖a‖
        h_BMO, a_BMI = F.normalize(h_BMO, dim=-1), F.normalize(a_BMI, dim=-1)
    if scale is not None:
        h_BMO = h_BMO * scale
    return h_BMO / h_BMO.shape[1], a_BMI


def updated(
    weights: list[TaskWeight], updates: list[Factors], gamma: Tensor | None, normalisation: Normalisation
) -> list[TaskWeight]:
    """H_(t+1) of every layer; "matrix" divides by each update's norm, "joint" by the norm of all together."""
    scales: list[Tensor | float] = [1.0 if gamma is None else gamma] * len(weights)
    if normalisation in ("joint", "matrix"):
        squares = [squared_norm(h, a) for h, a in updates]
        if normalisation == "joint":
            squares = [torch.stack(squares).sum(0)] * len(weights)
        # an update of zero stays zero
        inverse_norms = [square.clamp_min(1e-24).rsqrt() for square in squares]
        scales = [scale * inverse for scale, inverse in zip(scales, inverse_norms, strict=True)]
    steps = zip(weights, updates, scales, strict=True)
    return [weight.plus(h * scale, a) for weight, (h, a), scale in steps]


def inverse_spread(u_BMO: Tensor) -> Tensor:
    """1 / sqrt(sum of squared deviations over the support set + 1e-7), (B, 1, O), as in the released code."""
    return torch.rsqrt((u_BMO - u_BMO.mean(1, keepdim=True)).square().sum(1, keepdim=True) + 1e-7)
