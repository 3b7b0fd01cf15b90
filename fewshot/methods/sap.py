"""Subspace Adaptation Prior (SAP, Huisman et al. 2023): `python train.py method=sap`."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fewshot.backbones.base import Network
from fewshot.backbones.blocks import Blocks
from fewshot.backbones.layers import conv, linear
from fewshot.errors import UserError
from fewshot.methods.base import Lr, Task
from fewshot.methods.maml import MAML, EvalInnerSteps, FirstOrder, GradClip, InnerLr, InnerSteps
from fewshot.methods.sap_operations import (
    CONV_MULTIPLICATIONS,
    LINEAR_MULTIPLICATIONS,
    SCALES,
    SHIFTS,
    ConvOperations,
    LinearOperations,
    Strengths,
)

Centred = Annotated[bool, "3x3 operations are centred; false: padded right and below, as released"]


class SAP(MAML):
    """Learns in which subspaces to adapt: each level mixes candidate operations by meta-learned strengths.

    The inner loop adapts the operations and the head; body, batch norm and strengths are only meta-learned.
    Names are those of the SAP paper and its code: candidate operations, mixed by activation strengths.
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
        centred: Centred = True,
    ) -> None:
        self.centred = centred
        super().__init__(task, backbone, lr, inner_lr, inner_steps, eval_inner_steps, first_order, grad_clip)

    def make_net(self, network: Network) -> nn.Module:
        return SAPNetwork(network, self.task.input_shape, self.centred)

    def adapts(self, name: str) -> bool:
        return name.startswith(("transforms.", "transforms_head.", "head."))

    def interpretability(self) -> dict[str, float]:
        """Shares of the candidate operations: strengths after softmax, the head's after sigmoid."""
        net = self.net
        assert isinstance(net, SAPNetwork)
        names = {"multiplication": net.multiplications, "shift": SHIFTS, "scale": SCALES}
        shares = {}
        for level, strengths in enumerate(net.strengths):
            for kind, values in strengths.named_parameters():
                for name, share in zip(names[kind], values.softmax(0).tolist(), strict=True):
                    shares[f"level {level}, {kind}: {name}"] = share
        return shares | {"head: transformed": net.strength_head.sigmoid().item()}


class SAPNetwork(nn.Module):
    """A network with candidate operations on its input (level 0), blocks (levels 1 to L) and output."""

    def __init__(self, network: Network, input_shape: tuple[int, ...], centred: bool) -> None:
        super().__init__()
        if not isinstance(network.body, Blocks):
            raise UserError("SAP transforms what is between blocks: choose backbone=conv4, fc or mlp")
        self.body, self.head = network.body, network.head
        self.is_conv = not network.body.flat
        self.multiplications = CONV_MULTIPLICATIONS if self.is_conv else LINEAR_MULTIPLICATIONS
        make = ConvOperations if self.is_conv else LinearOperations
        blocks = list(network.body)
        inputs = input_shape[0] if self.is_conv else torch.Size(input_shape).numel()
        widths = [inputs, *(len(block.bias) for block in blocks)]
        shapes = [None, *(block.weight.shape[:2] for block in blocks)]
        self.transforms = nn.ModuleList(make(w, s, centred) for w, s in zip(widths, shapes, strict=True))
        choices = len(self.multiplications)
        self.strengths = nn.ModuleList(Strengths(choices, shape is not None) for shape in shapes)
        self.transforms_head = nn.Linear(network.head.out_features, network.head.out_features)
        nn.init.eye_(self.transforms_head.weight)
        nn.init.zeros_(self.transforms_head.bias)
        self.strength_head = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        levels: list[Any] = list(zip(self.transforms, self.strengths, strict=True))
        operations, strengths = levels[0]
        x = operations(self.body.shape(x), strengths)
        for block, (operations, strengths) in zip(self.body, levels[1:], strict=True):
            weight = operations.scaled(block.weight, strengths.scale)
            u = (conv if self.is_conv else linear)(x, weight, block.bias.expand(len(x), -1))
            x = block.activate(u, reference, partial(operations, strengths=strengths))
        y = linear(x.flatten(2), self.head.weight, self.head.bias)
        transformed = linear(y, self.transforms_head.weight, self.transforms_head.bias)
        return torch.lerp(y, transformed, self.strength_head.sigmoid().type_as(y))  # autocast: other dtypes
