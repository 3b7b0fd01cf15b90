"""Losses, scores and baselines of the tasks of a meta-batch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.episodes import Episode, Task


def squared_errors(predictions: Tensor, targets: Tensor) -> Tensor:
    """Each task's mean squared error, (B,)."""
    return F.mse_loss(predictions, targets, reduction="none").flatten(1).mean(1)


def nan_unless_finite(values: Tensor, predictions: Tensor) -> Tensor:
    """`values` (B,), NaN for tasks with a prediction that is not finite: argmax would choose a class."""
    return values.masked_fill(~predictions.detach().isfinite().flatten(1).all(1), float("nan"))


def with_gradients(losses: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`losses` (B,), whose sum has the given gradients: g · (p - p.detach()) is zero, with derivative g."""
    zeros = [(g * (p - p.detach())).sum() for g, p in zip(gradients, parameters, strict=True)]
    return losses.detach() + torch.stack(zeros).sum() / len(losses)


def accumulated(learner: Any, episode: Episode, tasks: int) -> tuple[Tensor, Tensor]:
    """`learner.losses` by gradient accumulation: the same gradients, `tasks` at a time to save memory."""
    parameters = list(learner.parameters())
    totals = [torch.zeros_like(p) for p in parameters]
    losses, predictions = [], []
    for parts in zip(*(x.split(tasks) for x in episode), strict=True):
        part_losses, part_predictions = learner.losses(Episode(*parts))
        gradients = torch.autograd.grad(part_losses.sum(), parameters, materialize_grads=True)
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient
        losses.append(part_losses.detach())
        predictions.append(part_predictions.detach())
    return with_gradients(torch.cat(losses), parameters, totals), torch.cat(predictions)


def query_rows(predictions: Tensor, episode: Episode, task: Task) -> Tensor:
    """What a test keeps of each query: (label, predicted label, its probability), or of each of its outputs
    (target, prediction).
    """
    if task.regression:
        return torch.stack([episode.query_y, predictions], -1).flatten(2)
    labels = predictions.argmax(-1, keepdim=True)
    probability = predictions.float().softmax(-1).gather(-1, labels)
    return torch.cat([episode.query_y.unsqueeze(-1), labels, probability], -1)


def baseline_scores(episode: Episode, task: Task) -> Tensor:
    """Each task's score, (B,), of the mean of the support values or of the nearest support image (L2)."""
    if task.regression:
        return (episode.query_y - episode.support_y.mean(1, keepdim=True)).square().flatten(1).mean(1)
    nearest_BQ = torch.cdist(episode.query_x.flatten(2), episode.support_x.flatten(2)).argmin(-1)
    return 100 * (episode.support_y.gather(1, nearest_BQ) == episode.query_y).float().mean(1)
