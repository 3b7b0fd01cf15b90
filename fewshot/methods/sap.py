"""Subspace Adaptation Prior (SAP, Huisman et al. 2023): `python train.py method=sap`."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.body import Network
from fewshot.backbones.layers import conv, linear
from fewshot.methods.maml import MAML

KINDS = {True: ("identity", "1x1", "3x3", "svd"), False: ("identity", "matrix")}  # by whether a level is convolutional
SHIFTS = ("none", "one", "per channel")
SCALES = ("none", "per weight", "per channel")


class SAP(MAML):
    """Learns in which subspaces to adapt: candidate transformations at every level, mixed by meta-learned weights.

    The inner loop moves the transformations and the head; the body, batch norm and the mixing weights are only
    meta-learned.

    Args:
        centred: 3×3 transformations look at their centre's neighbours; False: at those to the right and below (the
            released code pads there only).
    """

    def __init__(self, *args: Any, centred: bool, **kwargs: Any) -> None:
        self.centred = centred
        super().__init__(*args, **kwargs)

    def make_net(self, network: Network) -> nn.Module:
        return Transformed(network, self.task.input_shape, self.centred)

    def adapts(self, name: str) -> bool:
        return name.startswith(("transforms.", "transforms_head.", "head."))

    def findings(self) -> dict[str, float]:
        """How much each candidate counts at each level: the mixing weights after softmax or sigmoid."""
        net, found = self.net, {}
        assert isinstance(net, Transformed)
        for level, mixing in enumerate(net.mixing):
            for name, weights in mixing.named_parameters():
                names = {"layer": KINDS[net.is_conv], "shift": SHIFTS, "scale": SCALES}[name]
                for choice, share in zip(names, weights.softmax(0).tolist(), strict=True):
                    found[f"level {level}, {name}: {choice}"] = share
        return found | {"head: transformed": net.mixing_head.sigmoid().item()}


class Transformed(nn.Module):
    """A network whose input (level 0), blocks (levels 1..L) and output are transformed; parameters by level."""

    def __init__(self, network: Network, input_shape: tuple[int, ...], centred: bool) -> None:
        super().__init__()
        self.body, self.head = network.body, network.head
        self.is_conv = network.body.layer == "conv"
        inputs = input_shape[0] if self.is_conv else torch.Size(input_shape).numel()
        blocks = list(network.body)
        widths = [inputs, *(len(block.bias) for block in blocks)]
        shapes = [None, *(block.weight.shape[:2] for block in blocks)]
        make = ConvTransform if self.is_conv else LinearTransform
        self.transforms = nn.ModuleList(make(w, s, centred) for w, s in zip(widths, shapes, strict=True))
        self.mixing = nn.ModuleList(Mixing(len(KINDS[self.is_conv]), level > 0) for level in range(len(widths)))
        self.transforms_head = nn.Linear(network.head.out_features, network.head.out_features)
        nn.init.eye_(self.transforms_head.weight)
        nn.init.zeros_(self.transforms_head.bias)
        self.mixing_head = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        levels: list[Any] = list(zip(self.transforms, self.mixing, strict=True))
        transform, mixing = levels[0]
        x = transform(self.body.shape(x), mixing)
        for block, (transform, mixing) in zip(self.body, levels[1:], strict=True):
            weight = transform.scaled(block.weight, mixing.scale)
            u = (conv if self.is_conv else linear)(x, weight, block.bias.expand(len(x), -1))
            x = block.activate(u, reference, partial(transform, mixing=mixing))
        y = linear(x.flatten(2), self.head.weight, self.head.bias)
        share = self.mixing_head.sigmoid()
        moved = linear(y, self.transforms_head.weight, self.transforms_head.bias)
        return torch.lerp(y, moved, share.type_as(y))  # under autocast they differ


class Mixing(nn.Module):
    """A level's mixing weights, before the softmax: of its layers, its shifts and the scales of the block below."""

    def __init__(self, layers: int, has_block: bool) -> None:
        super().__init__()
        self.layer = nn.Parameter(torch.zeros(layers))
        self.shift = nn.Parameter(torch.zeros(3))
        if has_block:
            self.scale = nn.Parameter(torch.zeros(3))


class Transform(nn.Module):
    """What linear and convolutional transforms share: the scales of the block below, and the shifts."""

    def __init__(self, width: int, block: torch.Size | None) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.shifts = nn.Parameter(torch.zeros(width))
        if block is not None:
            self.weights = nn.Parameter(torch.ones(block))
            self.rows = nn.Parameter(torch.ones(block[0]))

    def scaled(self, weight: Tensor, mixing: Tensor) -> Tensor:
        """A block's weight (O, I, ...), multiplied by each task's mix of scales: (B, O, I, ...)."""
        none, per_weight, per_row = mixing.softmax(0)
        scale = none + per_weight * self.weights + per_row * self.rows.unsqueeze(-1)
        return weight * scale.view(*scale.shape, *(1 for _ in weight.shape[2:]))

    def shifted(self, mixing: Tensor) -> Tensor:
        """The mix of shifts, (B, O)."""
        _, one, per_channel = mixing.softmax(0)
        return one * self.shift.unsqueeze(-1) + per_channel * self.shifts


class LinearTransform(Transform):
    def __init__(self, width: int, block: torch.Size | None, centred: bool) -> None:
        super().__init__(width, block)
        self.matrix = nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor, mixing: Mixing) -> Tensor:
        identity, matrix = mixing.layer.softmax(0)
        weight = identity * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) + matrix * self.matrix
        return linear(x, weight, self.shifted(mixing.shift))


class ConvTransform(Transform):
    """Identity, 1×1, 3×3 and rank-one 3×3 convolutions, mixed into one kernel since all of them are linear."""

    def __init__(self, width: int, block: torch.Size | None, centred: bool) -> None:
        super().__init__(width, block)
        self.at = 1 if centred else 0  # where a 3×3 kernel's own pixel is
        eye, there = torch.eye(width), F.one_hot(torch.tensor(self.at), 3).float()
        self.point = nn.Parameter(eye[:, :, None, None].clone())
        self.kernel = nn.Parameter(self.placed(self.point.detach()).clone())
        self.u = nn.Parameter(eye.unsqueeze(-1) * there)
        self.s = nn.Parameter(torch.ones(width, width))
        self.v = nn.Parameter(eye.unsqueeze(-1) * there)

    def placed(self, point: Tensor) -> Tensor:
        """A 1×1 kernel as a 3×3 one."""
        return F.pad(point, (self.at, 2 - self.at) * 2)

    def forward(self, x: Tensor, mixing: Mixing) -> Tensor:
        identity, point, kernel, svd = mixing.layer.softmax(0)
        eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)[:, :, None, None]
        rank_one = (self.u * self.s.unsqueeze(-1)).unsqueeze(-1) * self.v.unsqueeze(-2)
        mixed = self.placed(identity * eye + point * self.point) + kernel * self.kernel + svd * rank_one
        shift = self.shifted(mixing.shift)
        if self.at == 0:  # right and below: a centred convolution of a larger image, cut
            return conv(F.pad(x, (0, 1, 0, 1)), mixed, shift)[..., 1:, 1:]
        return conv(x, mixed, shift)
