"""Fast weights by the delta rule (Schlag, Irie and Schmidhuber 2021): `python train.py method=deltanet`.

Shape suffixes: B tasks, M support examples, Q queries, D features, K key size, N outputs.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones.base import make_body
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.options import Few, Units


class DeltaNet(MetaLearner):
    """Writes the support set into a linear layer W by a fixed rule, of which OP-LSTM's is the learned one.

    Their rule, for all examples at once and in several passes: W ← W + 1/M Σ β (v - W k) kᵀ. Keys k are
    linear in the features and have norm 1, values v are linear in the targets, rates β in (0, 1) come from
    the features. Body, W's initial value, keys, values and rates are learned.
    """

    pure = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        passes: Annotated[Few, "T, updates by the whole support set"] = 3,
        key_size: Annotated[Units, "K, numbers of a key"] = 64,
    ) -> None:
        super().__init__(task, lr)
        self.body = make_body(task.input_shape, backbone)
        self.key = nn.Linear(self.body.features, key_size, bias=False)
        self.rate = nn.Linear(self.body.features, 1)
        self.value = nn.Linear(task.outputs, task.outputs, bias=False)
        nn.init.eye_(self.value.weight)
        self.initial = nn.Parameter(torch.zeros(task.outputs, key_size))
        self.scale = nn.Parameter(torch.tensor(10.0))  # a key's length, and so a prediction's, is at most 1
        self.passes = passes

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        features_BMD = self.body(support_x)
        query_BQD = query_pass(self.body, self.body.bn, support_x, query_x)
        key_BMK, query_BQK = (F.normalize(self.key(x), dim=-1) for x in (features_BMD, query_BQD))
        value_BMN, rate_BM1 = self.value(self.targets(support_y)), self.rate(features_BMD).sigmoid()
        weight_BNK = self.initial.expand(len(key_BMK), -1, -1)
        for _ in range(self.passes):
            error_BMN = value_BMN - key_BMK @ weight_BNK.mT
            weight_BNK = weight_BNK + (rate_BM1 * error_BMN).mT @ key_BMK / key_BMK.shape[1]
        return self.scale * (query_BQK @ weight_BNK.mT)
