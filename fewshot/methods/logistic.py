"""Logistic regression on a task's features, without meta-training: `python train.py method=logistic`.

Shape suffixes: B tasks, M support examples, Q queries, D features, R their dimensions, N classes.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fewshot.backbones.base import make_body
from fewshot.methods.base import MetaLearner, Task, query_pass


class Logistic(MetaLearner):
    """Multinomial logistic regression on the features of a body that is not trained (Tian et al. 2020).

    Ten of Newton's steps from 0 minimise Σ_m -log softmax(W x_m)_(y_m) + λ/2 ‖W‖², where x_m has length 1 and
    a constant is appended. W is a combination of support examples: it is found in the dimensions they span.
    """

    has_head = False
    regression = False

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        penalty: Annotated[float, Field(ge=1e-3, le=1e6), "λ; with less Newton's steps can diverge"] = 1.0,
    ) -> None:
        super().__init__(task)
        self.body = make_body(task.input_shape, backbone)
        self.penalty = penalty

    def features(self, x: Tensor, reference: int | None = None) -> Tensor:
        return F.pad(F.normalize(self.body(x, reference), dim=-1), (0, 1), value=1.0)

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        support_BMD = self.features(support_x)
        query_BQD = query_pass(self.features, self.body.bn, support_x, query_x)
        basis_BDR = torch.linalg.qr(support_BMD.mT).Q
        weights_BRN = self.solve(support_BMD @ basis_BDR, self.targets(support_y))
        return query_BQD @ basis_BDR @ weights_BRN

    def solve(self, x_BMR: Tensor, y_BMN: Tensor) -> Tensor:
        """The weights after ten of Newton's steps, (B, R, N)."""
        weights_BRN = x_BMR.new_zeros(len(x_BMR), x_BMR.shape[2], y_BMN.shape[2])
        eye = torch.eye(weights_BRN[0].numel(), dtype=x_BMR.dtype, device=x_BMR.device)
        for _ in range(10):
            p_BMN = (x_BMR @ weights_BRN).softmax(-1)
            gradient_BRN = x_BMR.mT @ (p_BMN - y_BMN) + self.penalty * weights_BRN
            curvature_BMNN = torch.diag_embed(p_BMN) - p_BMN.unsqueeze(-1) * p_BMN.unsqueeze(-2)
            hessian = torch.einsum("bmr,bmnk,bms->brnsk", x_BMR, curvature_BMNN, x_BMR)
            hessian = hessian.flatten(3, 4).flatten(1, 2) + self.penalty * eye
            step = torch.linalg.solve(hessian, gradient_BRN.flatten(1))
            weights_BRN = weights_BRN - step.view_as(weights_BRN)
        return weights_BRN
