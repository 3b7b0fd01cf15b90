"""Subspace Adaptation Prior (SAP, Huisman et al. 2023): `python train.py method=sap`."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.base import Network
from fewshot.backbones.blocks import Blocks
from fewshot.backbones.layers import conv, linear
from fewshot.errors import UserError
from fewshot.methods.base import Lr, Task
from fewshot.methods.maml import MAML, EvalInnerSteps, FirstOrder, GradClip, InnerLr, InnerSteps

MULTIPLICATIONS = {
    True: ("identity", "1x1", "3x3", "svd"),
    False: ("identity", "matrix"),
}  # of conv or linear levels
SHIFTS = ("none", "scalar", "vector")
SCALES = ("none", "mtl", "simple")


class SAP(MAML):
    """Learns in which subspaces to adapt: candidate transformations at every level, mixed by meta-learned strengths.

    The inner loop moves the transformations and the head; the body, batch norm and the strengths are only
    meta-learned.

    Names are those of the SAP paper and its code: candidate operations, and activation strengths that mix them.
    """

    replayable = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        inner_lr: InnerLr,
        inner_steps: InnerSteps,
        eval_inner_steps: EvalInnerSteps,
        first_order: FirstOrder = False,
        grad_clip: GradClip = None,
        centred: Annotated[
            bool, "3x3 operations are centred; false: padded right and below, as released"
        ] = True,
    ) -> None:
        self.centred = centred
        super().__init__(task, backbone, lr, inner_lr, inner_steps, eval_inner_steps, first_order, grad_clip)

    def make_net(self, network: Network) -> nn.Module:
        return Transformed(network, self.task.input_shape, self.centred)

    def adapts(self, name: str) -> bool:
        return name.startswith(("transforms.", "transforms_head.", "head."))

    def interpretability(self) -> dict[str, float]:
        """How much each candidate operation counts at each level: the activation strengths after softmax or sigmoid."""
        net, found = self.net, {}
        assert isinstance(net, Transformed)
        for level, strengths in enumerate(net.strengths):
            for name, weights in strengths.named_parameters():
                names = {"multiplication": MULTIPLICATIONS[net.is_conv], "shift": SHIFTS, "scale": SCALES}[
                    name
                ]
                for choice, share in zip(names, weights.softmax(0).tolist(), strict=True):
                    found[f"level {level}, {name}: {choice}"] = share
        return found | {"head: transformed": net.strength_head.sigmoid().item()}


class Transformed(nn.Module):
    """A network whose input (level 0), blocks (levels 1..L) and output are transformed; parameters by level."""

    def __init__(self, network: Network, input_shape: tuple[int, ...], centred: bool) -> None:
        super().__init__()
        if not isinstance(network.body, Blocks):
            raise UserError("SAP transforms what is between blocks: choose backbone=conv4, fc or mlp")
        self.body, self.head = network.body, network.head
        self.is_conv = not network.body.flat
        inputs = input_shape[0] if self.is_conv else torch.Size(input_shape).numel()
        blocks = list(network.body)
        widths = [inputs, *(len(block.bias) for block in blocks)]
        shapes = [None, *(block.weight.shape[:2] for block in blocks)]
        make = ConvTransform if self.is_conv else LinearTransform
        self.transforms = nn.ModuleList(make(w, s, centred) for w, s in zip(widths, shapes, strict=True))
        choices = len(MULTIPLICATIONS[self.is_conv])
        self.strengths = nn.ModuleList(Strengths(choices, shape is not None) for shape in shapes)
        self.transforms_head = nn.Linear(network.head.out_features, network.head.out_features)
        nn.init.eye_(self.transforms_head.weight)
        nn.init.zeros_(self.transforms_head.bias)
        self.strength_head = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        levels: list[Any] = list(zip(self.transforms, self.strengths, strict=True))
        transform, strengths = levels[0]
        x = transform(self.body.shape(x), strengths)
        for block, (transform, strengths) in zip(self.body, levels[1:], strict=True):
            weight = transform.scaled(block.weight, strengths.scale)
            u = (conv if self.is_conv else linear)(x, weight, block.bias.expand(len(x), -1))
            x = block.activate(u, reference, partial(transform, strengths=strengths))
        y = linear(x.flatten(2), self.head.weight, self.head.bias)
        share = self.strength_head.sigmoid()
        moved = linear(y, self.transforms_head.weight, self.transforms_head.bias)
        return torch.lerp(y, moved, share.type_as(y))  # under autocast they differ


class Strengths(nn.Module):
    """A level's activation strengths (alpha), before the softmax; the scales are those of the block below."""

    def __init__(self, multiplications: int, has_block: bool) -> None:
        super().__init__()
        self.multiplication = nn.Parameter(torch.zeros(multiplications))
        self.shift = nn.Parameter(torch.zeros(3))
        if has_block:
            self.scale = nn.Parameter(torch.zeros(3))


class Transform(nn.Module):
    """What linear and convolutional transforms share: the scales of the block below, and the shifts."""

    def __init__(self, width: int, block: torch.Size | None) -> None:
        super().__init__()
        self.scalar_shift = nn.Parameter(torch.zeros(()))
        self.vector_shift = nn.Parameter(torch.zeros(width))
        if block is not None:
            self.mtl_scale = nn.Parameter(torch.ones(block))
            self.simple_scale = nn.Parameter(torch.ones(block[0]))

    def scaled(self, weight: Tensor, strengths: Tensor) -> Tensor:
        """A block's weight (O, I, ...), multiplied by each task's mix of scales: (B, O, I, ...)."""
        none, mtl, simple = strengths.softmax(0)
        scale = none + mtl * self.mtl_scale + simple * self.simple_scale.unsqueeze(-1)
        return weight * scale.view(*scale.shape, *(1 for _ in weight.shape[2:]))

    def shifted(self, strengths: Tensor) -> Tensor:
        """The mix of shifts, (B, O)."""
        _, scalar, vector = strengths.softmax(0)
        return scalar * self.scalar_shift.unsqueeze(-1) + vector * self.vector_shift


class LinearTransform(Transform):
    def __init__(self, width: int, block: torch.Size | None, centred: bool) -> None:
        super().__init__(width, block)
        self.matrix = nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor, strengths: Strengths) -> Tensor:
        identity, matrix = strengths.multiplication.softmax(0)
        moved = linear(x, self.matrix, x.new_zeros(1))
        return identity * x + matrix * moved + self.shifted(strengths.shift).unsqueeze(-2)


class ConvTransform(Transform):
    """Identity, 1×1, 3×3 and rank-one 3×3 convolutions, mixed into one kernel since all of them are linear."""

    def __init__(self, width: int, block: torch.Size | None, centred: bool) -> None:
        super().__init__(width, block)
        self.at = 1 if centred else 0  # where a 3×3 kernel's own pixel is
        eye, there = torch.eye(width), F.one_hot(torch.tensor(self.at), 3).float()
        self.conv1x1 = nn.Parameter(eye[:, :, None, None].clone())
        self.conv3x3 = nn.Parameter(self.placed(self.conv1x1.detach()).clone())
        self.svd_u = nn.Parameter(eye.unsqueeze(-1) * there)
        self.svd_s = nn.Parameter(torch.ones(width, width))
        self.svd_v = nn.Parameter(eye.unsqueeze(-1) * there)

    def placed(self, point: Tensor) -> Tensor:
        """A 1×1 kernel as a 3×3 one."""
        return F.pad(point, (self.at, 2 - self.at) * 2)

    def forward(self, x: Tensor, strengths: Strengths) -> Tensor:
        identity, point, kernel, svd = strengths.multiplication.softmax(0)
        eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)[:, :, None, None]
        rank_one = (self.svd_u * self.svd_s.unsqueeze(-1)).unsqueeze(-1) * self.svd_v.unsqueeze(-2)
        mixed = self.placed(identity * eye + point * self.conv1x1) + kernel * self.conv3x3 + svd * rank_one
        shift = self.shifted(strengths.shift)
        if self.at == 0:  # right and below: a centred convolution of a larger image, cut
            return conv(F.pad(x, (0, 1, 0, 1)), mixed, shift)[..., 1:, 1:]
        return conv(x, mixed, shift)
