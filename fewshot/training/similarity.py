"""Figure 6: how OP-LSTM's update of the output layer compares with gradient descent and with prototypes."""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from fewshot.episodes import Episode
from fewshot.methods.oplstm import OPLSTM

STEP = 0.01  # of gradient descent, section 5.4


class Similarity(Callback):
    """Logs, at every validation, means of `similarities` over the tasks."""

    def __init__(self, definition: str) -> None:
        self.definition = definition

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Episode, *_: Any
    ) -> None:
        assert isinstance(pl_module, OPLSTM)
        found = similarities(pl_module, batch, self.definition)
        means = {f"similarity_{self.definition}/{name}": values_B.mean() for name, values_B in found.items()}
        pl_module.log_dict(means, batch_size=len(batch.query_y))


@torch.no_grad()
def similarities(learner: OPLSTM, episode: Episode, definition: str) -> dict[str, Tensor]:
    """Cosine similarity and Euclidean distance of the output layer's updates, (B,) each.

    Args:
        definition: "paper": H_T - H_0 against H_GD - H_0 and H_Proto - H_0 (section 5.4); "released": against
            prototypes H_T itself and H_Proto itself, H_0 not subtracted.

    H_GD is H_0 after as many gradient steps of 0.01 on the support loss as OP-LSTM makes passes, over the
    features that the layer sees under H_0, with its bias unchanged. H_Proto has rows 2 c_n, the linear part
    of the squared distance to the mean c_n of a class's features: -|x - c|² = 2 cᵀx - |c|² - |x|².
    """
    features_BMD, initial_BND, final_BND = learner.output_layer(episode.support_x, episode.support_y)
    targets_BMN = learner.targets(episode.support_y)
    descended_BND = initial_BND
    for _ in range(learner.passes):  # the gradient of the mean cross-entropy is (p - y)ᵀ a / M
        error_BMN = (features_BMD @ descended_BND.mT + learner.head.bias).softmax(-1) - targets_BMN
        descended_BND = descended_BND - STEP * error_BMN.mT @ features_BMD / features_BMD.shape[1]
    prototypes_BND = targets_BMN.mT @ features_BMD / targets_BMN.sum(1).unsqueeze(-1)
    origin = initial_BND if definition == "paper" else torch.zeros_like(initial_BND)
    pairs = {"gradient": (final_BND - initial_BND, descended_BND - initial_BND)}
    pairs |= {"prototypes": (final_BND - origin, 2 * prototypes_BND - origin)}
    found = {}
    for name, (ours, other) in pairs.items():
        found[f"cosine_{name}"] = F.cosine_similarity(ours.flatten(1), other.flatten(1))
        found[f"distance_{name}"] = (ours - other).flatten(1).norm(dim=1)
    return found
