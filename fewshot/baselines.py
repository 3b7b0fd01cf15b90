"""What no learner should fall below: what a task's support set tells without any learning."""

import torch
from torch import Tensor

from fewshot.episodes import Episode, Task


def baseline_name(task: Task) -> str:
    return "support_mean" if task.regression else "nearest_neighbour"


def baseline_scores(episode: Episode, task: Task) -> Tensor:
    """Each task's score, (B,): the accuracy in % of the nearest support example in raw pixels (L2), whose
    class a query gets; for regression the squared error of the mean of the support values."""
    if task.regression:
        return (episode.query_y - episode.support_y.mean(1, keepdim=True)).square().flatten(1).mean(1)
    nearest_BQ = torch.cdist(episode.query_x.flatten(2), episode.support_x.flatten(2)).argmin(-1)
    return 100 * (episode.support_y.gather(1, nearest_BQ) == episode.query_y).float().mean(1)
