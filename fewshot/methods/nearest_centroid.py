"""SimpleShot (Wang et al. 2019): `python train.py method=nearest_centroid`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.backbones.base import make_body
from fewshot.methods.base import MetaLearner, Task, query_pass


class NearestCentroid(MetaLearner):
    """Classifies by the distance to the class means of the features of a body that is not trained.

    With `normalise` features are divided by their length, SimpleShot's L2N; with frozen features, which are
    centred by the mean over the training classes, that is its CL2N.
    """

    has_head = False
    regression = False

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        distance: Annotated[Literal["euclidean", "cosine"], "to the class means"] = "euclidean",
        normalise: Annotated[bool, "divide features by their length"] = True,
    ) -> None:
        super().__init__(task)
        self.body = make_body(task.input_shape, backbone)
        self.distance, self.normalise = distance, normalise

    def features(self, x: Tensor, reference: int | None = None) -> Tensor:
        features_BMD = self.body(x, reference)
        return F.normalize(features_BMD, dim=-1) if self.normalise else features_BMD

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        support_BMD = self.features(support_x)
        query_BQD = query_pass(self.features, self.body.bn, support_x, query_x)
        targets_BMN = self.targets(support_y)
        means_BND = targets_BMN.mT @ support_BMD / targets_BMN.sum(1).unsqueeze(-1)
        if self.distance == "cosine":
            return F.normalize(query_BQD, dim=-1) @ F.normalize(means_BND, dim=-1).mT
        return -torch.cdist(query_BQD, means_BND).square()
