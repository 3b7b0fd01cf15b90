"""SAP's candidate operations at one level of a network, and the activation strengths that mix them.

Every operation starts as the identity. Shape suffixes: B tasks, O outputs, I inputs of a block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.layers import conv, linear

CONV_MULTIPLICATIONS = ("identity", "1x1", "3x3", "svd")
LINEAR_MULTIPLICATIONS = ("identity", "matrix")
SHIFTS = ("none", "scalar", "vector")
SCALES = ("none", "mtl", "simple")


class Strengths(nn.Module):
    """A level's activation strengths (alpha) before the softmax; `scale` is for the block before it."""

    def __init__(self, multiplications: int, has_block: bool) -> None:
        super().__init__()
        self.multiplication = nn.Parameter(torch.zeros(multiplications))
        self.shift = nn.Parameter(torch.zeros(len(SHIFTS)))
        if has_block:
            self.scale = nn.Parameter(torch.zeros(len(SCALES)))


class Operations(nn.Module):
    """What convolutional and linear levels share: shifts, and scales of the block's weight.

    Args:
        width: features, or feature maps, at this level.
        block: (outputs, inputs) of the block before it; None at the network's input.
    """

    def __init__(self, width: int, block: torch.Size | None) -> None:
        super().__init__()
        self.scalar_shift = nn.Parameter(torch.zeros(()))
        self.vector_shift = nn.Parameter(torch.zeros(width))
        if block is not None:
            self.mtl_scale = nn.Parameter(torch.ones(block))
            self.simple_scale = nn.Parameter(torch.ones(block[0]))

    def scaled(self, weight: Tensor, strengths: Tensor) -> Tensor:
        """A block's weight (O, I, ...) times each task's mix of scales, (B, O, I, ...)."""
        none, mtl, simple = strengths.softmax(0)
        scale_BOI = none + mtl * self.mtl_scale + simple * self.simple_scale.unsqueeze(-1)
        return weight * scale_BOI.view(*scale_BOI.shape, *(1 for _ in weight.shape[2:]))

    def shift(self, strengths: Tensor) -> Tensor:
        """The mix of shifts, (B, O)."""
        _, scalar, vector = strengths.softmax(0)
        return scalar * self.scalar_shift.unsqueeze(-1) + vector * self.vector_shift


class LinearOperations(Operations):
    """The identity and a matrix."""

    def __init__(self, width: int, block: torch.Size | None, centred: bool) -> None:
        super().__init__(width, block)
        self.matrix = nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor, strengths: Strengths) -> Tensor:
        identity, matrix = strengths.multiplication.softmax(0)
        product = linear(x, self.matrix, x.new_zeros(1))
        return identity * x + matrix * product + self.shift(strengths.shift).unsqueeze(-2)


class ConvOperations(Operations):
    """The identity and 1×1, 3×3 and rank-one 3×3 convolutions, mixed into one kernel, as all are linear."""

    def __init__(self, width: int, block: torch.Size | None, centred: bool) -> None:
        super().__init__(width, block)
        self.center = 1 if centred else 0  # where in a 3×3 kernel the output's own pixel is
        eye, unit = torch.eye(width), F.one_hot(torch.tensor(self.center), 3).float()
        self.conv1x1 = nn.Parameter(eye[:, :, None, None].clone())
        self.conv3x3 = nn.Parameter(self.as_3x3(self.conv1x1.detach()).clone())
        self.svd_u = nn.Parameter(eye.unsqueeze(-1) * unit)
        self.svd_s = nn.Parameter(torch.ones(width, width))
        self.svd_v = nn.Parameter(eye.unsqueeze(-1) * unit)

    def as_3x3(self, kernel1x1: Tensor) -> Tensor:
        return F.pad(kernel1x1, (self.center, 2 - self.center) * 2)

    def forward(self, x: Tensor, strengths: Strengths) -> Tensor:
        identity, conv1x1, conv3x3, svd = strengths.multiplication.softmax(0)
        eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)[:, :, None, None]
        rank_one = (self.svd_u * self.svd_s.unsqueeze(-1)).unsqueeze(-1) * self.svd_v.unsqueeze(-2)
        mixed = self.as_3x3(identity * eye + conv1x1 * self.conv1x1) + conv3x3 * self.conv3x3 + svd * rank_one
        shift = self.shift(strengths.shift)
        if self.center == 0:  # padded right and below: a centred convolution of a larger image, cropped
            return conv(F.pad(x, (0, 1, 0, 1)), mixed, shift)[..., 1:, 1:]
        return conv(x, mixed, shift)
