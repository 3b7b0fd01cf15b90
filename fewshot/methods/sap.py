"""Subspace Adaptation Prior (SAP, Huisman et al. 2023): `python train.py method=sap`.

Shape suffixes: B tasks, O outputs, I inputs of a block.
"""

from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.base import Body, Network
from fewshot.backbones.blocks import Blocks
from fewshot.backbones.layers import conv, linear
from fewshot.errors import UserError
from fewshot.methods.maml import MAML


class SAP(MAML):
    """Learns in which subspaces to adapt: each level mixes candidate operations by meta-learned strengths.

    With shares s = softmax(strengths), level l multiplies the weight of block l by Σ_k s_k scale_k and maps
    its output x, before pooling, to Σ_k s_k operation_k(x) + Σ_k s_k shift_k. The inner loop adapts
    operations, shifts, scales and the head; body, batch norm and strengths are only meta-learned.
    """

    pure = True
    net: "SAPNetwork"

    def __init__(
        self,
        *args: Any,
        centred: Annotated[bool, "3x3 operations are centred; false: padded as released"] = True,
        **kwargs: Any,
    ) -> None:
        self.centred = centred
        super().__init__(*args, **kwargs)

    def make_net(self, body: Body) -> Network:
        return SAPNetwork(body, self.task.outputs, self.centred)

    def adapts(self, name: str) -> bool:
        return name.startswith(("transforms.", "transforms_head.", "head."))

    def interpretability(self) -> dict[str, float]:
        """Shares of the candidate operations: strengths after softmax, the head's after sigmoid."""
        found = {}
        for level, strengths in enumerate(self.net.strengths):
            for kind, values in strengths.items():
                for name, share in zip(self.net.choices[kind], values.softmax(0).tolist(), strict=True):
                    found[f"level {level}, {kind}: {name}"] = share
        return found | {"head: transformed": self.net.strength_head.sigmoid().item()}


class SAPNetwork(Network):
    """A network with candidate operations on its input (level 0), blocks (levels 1 to L) and output.

    Every operation starts as the identity. A level's convolutions are mixed into one kernel: all are linear.
    """

    body: Blocks

    def __init__(self, body: Body, outputs: int, centred: bool) -> None:
        if not isinstance(body, Blocks):
            raise UserError("SAP transforms what is between blocks: choose backbone=conv4, fc or mlp")
        super().__init__(body, outputs)
        self.is_conv, self.centre = not body.flat, 1 if centred else 0  # of a 3×3 kernel
        operations = ("identity", "1x1", "3x3", "svd") if self.is_conv else ("identity", "matrix")
        shifts, scales = ("none", "scalar", "vector"), ("none", "mtl", "simple")
        self.choices = {"multiplication": operations, "shift": shifts, "scale": scales}
        weights = [block.weight for block in body]
        self.transforms = nn.ModuleList([self.operations(weights[0].shape[1])])
        self.transforms.extend(self.operations(len(w), w.shape[:2]) for w in weights)
        self.strengths: Any = nn.ModuleList()
        for level in range(1 + len(weights)):
            kinds = [kind for kind in self.choices if level > 0 or kind != "scale"]
            self.strengths.append(nn.ParameterDict([(k, torch.zeros(len(self.choices[k]))) for k in kinds]))
        self.transforms_head = nn.Linear(outputs, outputs)
        nn.init.eye_(self.transforms_head.weight)
        nn.init.zeros_(self.transforms_head.bias)
        self.strength_head = nn.Parameter(torch.zeros(1))

    def operations(self, width: int, block: torch.Size | None = None) -> nn.ParameterDict:
        """The operations on `width` features; `block` is (outputs, inputs) of the block before them."""
        own = {"scalar_shift": torch.zeros(()), "vector_shift": torch.zeros(width)}
        if block is not None:
            own |= {"mtl_scale": torch.ones(block), "simple_scale": torch.ones(block[0])}
        if self.is_conv:
            kernel = torch.eye(width)[:, :, None, None]
            pixel = torch.eye(width).unsqueeze(-1) * F.one_hot(torch.tensor(self.centre), 3)
            own |= {"conv1x1": kernel, "conv3x3": self.as_3x3(kernel)}
            own |= {"svd_u": pixel, "svd_s": torch.ones(width, width), "svd_v": pixel.clone()}
        else:
            own |= {"matrix": torch.eye(width)}
        return nn.ParameterDict([*own.items()])

    def as_3x3(self, kernel1x1: Tensor) -> Tensor:
        return F.pad(kernel1x1, (self.centre, 2 - self.centre) * 2)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        x = self.transform(0, self.body.as_input(x))
        for level, block in enumerate(self.body, 1):
            u = block.layer(x, self.scaled(level, block.weight), block.bias.expand(len(x), -1))
            x = block.activate(u, reference, partial(self.transform, level))
        y = linear(x.flatten(2), self.head.weight, self.head.bias)
        transformed = linear(y, self.transforms_head.weight, self.transforms_head.bias)
        return torch.lerp(y, transformed, self.strength_head.sigmoid().type_as(y))  # autocast: other dtypes

    def scaled(self, level: int, weight: Tensor) -> Tensor:
        """A block's weight (O, I, ...) times each task's mix of scales, (B, O, I, ...)."""
        own: Any = self.transforms[level]
        none, mtl, simple = self.strengths[level].scale.softmax(0)
        scale_BOI = none + mtl * own.mtl_scale + simple * own.simple_scale.unsqueeze(-1)
        return weight * scale_BOI.view(*scale_BOI.shape, *(1 for _ in weight.shape[2:]))

    def transform(self, level: int, x: Tensor) -> Tensor:
        """A level's operations and shifts, mixed."""
        own: Any = self.transforms[level]
        shares = self.strengths[level].multiplication.softmax(0)
        _, scalar, vector = self.strengths[level].shift.softmax(0)
        shift_BO = scalar * own.scalar_shift.unsqueeze(-1) + vector * own.vector_shift
        if not self.is_conv:
            (identity, matrix), product = shares, linear(x, own.matrix, x.new_zeros(1))
            return identity * x + matrix * product + shift_BO.unsqueeze(-2)
        identity, conv1x1, conv3x3, svd = shares
        eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)[:, :, None, None]
        rank_one = (own.svd_u * own.svd_s.unsqueeze(-1)).unsqueeze(-1) * own.svd_v.unsqueeze(-2)
        kernel = self.as_3x3(identity * eye + conv1x1 * own.conv1x1) + conv3x3 * own.conv3x3 + svd * rank_one
        if self.centre == 0:  # padded right and below: a centred convolution of a larger image, cropped
            return conv(F.pad(x, (0, 1, 0, 1)), kernel, shift_BO)[..., 1:, 1:]
        return conv(x, kernel, shift_BO)
