"""Layers whose weights are shared by all tasks or have a leading task axis, one weight per task.

No vmap: under it torch's meta-gradient of batch norm with adapted affine weights is wrong.
Shape suffixes: B tasks, M examples of a set, I inputs, O outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.errors import UserError

EPS = 1e-5


def linear(x_BMI: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x Wᵀ + b, (B, M, O); `weight` (O, I), (B, O, I) or `TaskWeight`, `bias` (O,), (B, O) or one number."""
    if not isinstance(weight, Tensor):
        return weight.linear(x_BMI, bias)
    if weight.dim() == 2:
        return x_BMI @ weight.mT + bias.unsqueeze(-2)
    return torch.baddbmm(bias.unsqueeze(-2), x_BMI, weight.mT)


def conv(x_BMIHW: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution to the same size; `weight` (O, I, K, L) or (B, O, I, K, L), odd; `bias` (O,), (B, O)."""
    (tasks, examples), padding = x_BMIHW.shape[:2], [size // 2 for size in weight.shape[-2:]]
    bias = None if bias is None else bias.flatten()
    if weight.dim() == 4:
        return F.conv2d(x_BMIHW.flatten(0, 1), weight, bias, padding=padding).unflatten(0, (tasks, examples))
    x = F.conv2d(fold_tasks(x_BMIHW), weight.flatten(0, 1), bias, padding=padding, groups=tasks)
    return unfold_tasks(x, tasks)


def max_pool(x_BMOHW: Tensor) -> Tensor:
    """2×2 max-pooling; 1×2 in images of height 1."""
    size = (min(x_BMOHW.shape[3], 2), 2)
    return unfold_tasks(F.max_pool2d(fold_tasks(x_BMOHW), size), len(x_BMOHW))


def batch_norm(
    x_BMO: Tensor, weight: Tensor, bias: Tensor, reference: int | None = None, eps: float = EPS
) -> Tensor:
    """Batch norm over the examples (and pixels) of each task's set; gradients flow through the statistics.

    `x_BMO` is (B, M, O) or (B, M, O, H, W). With `reference`, the statistics are those of the first
    `reference` examples; without, one example alone is a UserError. As in the paper's runs, there are no
    running statistics.
    """
    tasks = len(x_BMO)
    if reference is None:
        if x_BMO.shape[1] == 1:
            raise UserError(
                "batch norm has no statistics for a set of one example: give more shots or queries, or "
                "normalise the queries by the support set with backbone.bn=support (evaluate.py: bn=support)"
            )
        weight, bias = weight.expand(tasks, -1).flatten(), bias.expand(tasks, -1).flatten()
        x = F.batch_norm(fold_tasks(x_BMO), None, None, weight, bias, training=True, eps=eps)
        return unfold_tasks(x, tasks)
    pixels = range(3, x_BMO.dim())
    var, mean = torch.var_mean(x_BMO[:, :reference], (1, *pixels), correction=0, keepdim=True)
    shape = (-1, 1, x_BMO.shape[2], *(1 for _ in pixels))
    scale = weight.reshape(shape) * torch.rsqrt(var + eps)
    return torch.addcmul(bias.reshape(shape) - mean * scale, x_BMO, scale)


def loop_over_tasks(x: Tensor) -> bool:
    """Whether to convolve one task after the other: on a CPU, where copies between layouts take longer."""
    return x.device.type == "cpu"


def fold_tasks(x_BMO: Tensor) -> Tensor:
    """(B, M, O, ...) → (M, B * O, ...), the layout for torch's layers: each task has its own channels."""
    return x_BMO.transpose(0, 1).flatten(1, 2)


def unfold_tasks(x: Tensor, tasks: int) -> Tensor:
    """(M, B * O, ...) → (B, M, O, ...), the inverse of `fold_tasks`."""
    return x.unflatten(1, (tasks, -1)).transpose(0, 1)
