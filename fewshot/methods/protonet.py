"""Prototypical network (Snell et al. 2017): `python train.py method=protonet`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fewshot.backbones.base import make_body
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass


class ProtoNet(MetaLearner):
    """Classifies by squared Euclidean distance to prototypes, the class means of the features (section 6)."""

    has_head = False
    pure = True
    regression = False

    def __init__(self, task: Task, backbone: Mapping[str, Any], lr: Lr) -> None:
        super().__init__(task, lr)
        self.body = make_body(task.input_shape, backbone)

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        support_BMD = self.body(support_x)
        query_BQD = query_pass(self.body, self.body.bn, support_x, query_x)
        targets_BMN = self.targets(support_y)
        # Snell et al., Eq. 1
        prototypes_BND = targets_BMN.mT @ support_BMD / targets_BMN.sum(1).unsqueeze(-1)
        if torch.onnx.is_in_onnx_export():  # ONNX has no cdist
            return -(query_BQD.unsqueeze(2) - prototypes_BND.unsqueeze(1)).square().sum(-1)
        # Eq. 2. Expanding -|q - c|² to drop |q|², which all classes share, would be faster but less precise
        return -torch.cdist(query_BQD, prototypes_BND, compute_mode="donot_use_mm_for_euclid_dist").square()
