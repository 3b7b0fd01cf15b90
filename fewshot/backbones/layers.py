"""Layers whose weights are shared by all tasks or carry a leading task axis: the one way tasks are batched here.

Shape suffixes: B tasks, M examples of a set, I inputs, O outputs. A weight with one more axis than usual holds
one weight a task. No vmap: batch norm under vmap with adapted affine weights gives wrong meta-gradients in torch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.errors import UserError

EPS = 1e-5


def linear(x_BMI: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x Wᵀ + b, (B, M, O); `weight` (O, I) or (B, O, I), or one that knows how (`TaskWeight`); `bias` (O,), (B, O) or
    one number for all outputs."""
    if not isinstance(weight, Tensor):
        return weight.linear(x_BMI, bias)
    if weight.dim() == 2:
        return x_BMI @ weight.mT + bias.unsqueeze(-2)
    return torch.baddbmm(bias.unsqueeze(-2), x_BMI, weight.mT)


def conv(x_BMIHW: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """K×K convolution that keeps an image's size, K odd; `weight` (O, I, K, K) or (B, O, I, K, K), `bias` (O,) or
    (B, O)."""
    (tasks, examples), padding = x_BMIHW.shape[:2], weight.shape[-1] // 2
    bias = None if bias is None else bias.flatten()
    if weight.dim() == 4:
        return F.conv2d(x_BMIHW.flatten(0, 1), weight, bias, padding=padding).unflatten(0, (tasks, examples))
    return unfold_tasks(
        F.conv2d(fold_tasks(x_BMIHW), weight.flatten(0, 1), bias, padding=padding, groups=tasks), tasks
    )


def batch_norm(
    x_BMO: Tensor, weight: Tensor, bias: Tensor, reference: int | None = None, eps: float = EPS
) -> Tensor:
    """Batch norm over the examples (and pixels) of each task's set; gradients flow through the statistics.

    `x_BMO` is (B, M, O) or (B, M, O, H, W). With `reference` the statistics are those of the first `reference`
    examples. Running statistics are never used: the sets of a task are tiny, and the paper's runs use none.

    Raises:
        UserError: a set of one example would be normalised by its own statistics.
    """
    tasks = len(x_BMO)
    if reference is None:
        if x_BMO.shape[1] == 1:
            raise UserError(
                "batch norm has no statistics for a set of one example: give more shots or queries, or normalise the "
                "queries by the support set with backbone.bn=support (bn=support of evaluate.py)"
            )
        weight, bias = weight.expand(tasks, -1).flatten(), bias.expand(tasks, -1).flatten()
        return unfold_tasks(
            F.batch_norm(fold_tasks(x_BMO), None, None, weight, bias, training=True, eps=eps), tasks
        )
    axes = (1, *range(3, x_BMO.dim()))
    var, mean = torch.var_mean(x_BMO[:, :reference], axes, correction=0, keepdim=True)
    shape = (-1, 1, x_BMO.shape[2], *(1 for _ in range(3, x_BMO.dim())))
    scale = weight.reshape(shape) * torch.rsqrt(var + eps)
    return torch.addcmul(bias.reshape(shape) - mean * scale, x_BMO, scale)


def lstm_cell(gates_DR: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Eqs. 1 to 6 after the products, on columns: gates (4 units, ...) in torch's order → h and c (units, ...)."""
    i, f, g, o = gates_DR.chunk(4)
    new = i.sigmoid() * g.tanh()
    if c is not None:
        new = torch.addcmul(new, f.sigmoid(), c)
    return o.sigmoid() * new.tanh(), new


def loop_over_tasks(x: Tensor) -> bool:
    """Whether tasks are better convolved one after the other: on a CPU, which is filled by one of them.

    Together, each layer's result is copied from the layout of convolutions to that of batch norm and back, which takes
    longer than the convolutions.
    """
    return x.device.type == "cpu"


def fold_tasks(x_BMO: Tensor) -> Tensor:
    """(B, M, O, ...) → (M, B * O, ...): each task's channels are channels of their own, as torch's layers take them."""
    return x_BMO.transpose(0, 1).flatten(1, 2)


def unfold_tasks(x: Tensor, tasks: int) -> Tensor:
    """(M, B * O, ...) → (B, M, O, ...), the inverse of `fold_tasks`."""
    return x.unflatten(1, (tasks, -1)).transpose(0, 1)
