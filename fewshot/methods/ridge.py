"""Ridge regression in closed form (R2D2, Bertinetto et al. 2019): `python train.py method=ridge`.

Shape suffixes: B tasks, M support examples, Q queries, D features, N outputs.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fewshot.backbones.base import make_body
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.options import Positive


class Ridge(MetaLearner):
    """Fits a linear layer to the features of the support set, and learns the features through its solution.

    R2D2, section 3.2: W = Xᵀ (X Xᵀ + λ I)⁻¹ Y, and a query's prediction is α x W + β. Beside the body it
    learns λ, α and β. Of all linear layers W has the least penalised squared error, so that it is also what
    the fast weights of a linear layer could be at best.
    """

    has_head = False
    pure = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        penalty: Annotated[Positive, "initial value of λ, which is learned"] = 1.0,
    ) -> None:
        super().__init__(task, lr)
        self.body = make_body(task.input_shape, backbone)
        self.log_penalty = nn.Parameter(torch.tensor(float(penalty)).log())
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.shift = nn.Parameter(torch.tensor(0.0))

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        x_BMD = self.body(support_x)
        query_BQD = query_pass(self.body, self.body.bn, support_x, query_x)
        kernel_BMM = x_BMD @ x_BMD.mT
        ridge_MM = self.log_penalty.exp() * torch.eye(x_BMD.shape[1], dtype=x_BMD.dtype, device=x_BMD.device)
        dual_BMN = torch.linalg.solve(kernel_BMM + ridge_MM, self.targets(support_y))
        return self.scale * (query_BQD @ x_BMD.mT @ dual_BMN) + self.shift
