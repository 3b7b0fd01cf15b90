"""Losses and scores of the tasks of a meta-batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import multiclass_accuracy

from fewshot.episodes import Episode


def accumulated_losses(learner: nn.Module, episode: Episode, tasks: int) -> tuple[Tensor, Tensor]:
    """`learner.losses` by gradient accumulation: the same gradients, `tasks` at a time to save memory."""
    parameters = list(learner.parameters())
    totals = [torch.zeros_like(p) for p in parameters]
    losses, predictions = [], []
    for parts in zip(*(x.split(tasks) for x in episode), strict=True):
        part_losses, part_predictions = learner.losses(Episode(*parts))  # type: ignore[operator]
        gradients = torch.autograd.grad(part_losses.sum(), parameters, allow_unused=True)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient
        losses.append(part_losses.detach())
        predictions.append(part_predictions.detach())
    return with_gradients(torch.cat(losses), parameters, totals), torch.cat(predictions)


def with_gradients(losses: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`losses` (B,), whose sum has the given gradients: Lightning expects one loss to differentiate.

    g · (p - p.detach()) is zero and has the derivative g with respect to p.
    """
    zeros = [(g * (p - p.detach())).sum() for g, p in zip(gradients, parameters, strict=True)]
    return losses.detach() + torch.stack(zeros).sum() / len(losses)


def nan_unless_finite(values: Tensor, predictions: Tensor) -> Tensor:
    """`values` (B,), NaN for tasks with a prediction that is not finite: argmax would choose a class."""
    return values.masked_fill(~predictions.detach().isfinite().flatten(1).all(1), float("nan"))


def task_scores(predictions: Tensor, targets: Tensor, regression: bool) -> Tensor:
    """Each task's score, (B,): accuracy in % or mean squared error; NaN if a prediction is not finite."""
    if regression:
        errors = mean_squared_error(predictions.flatten(1).T, targets.flatten(1).T, num_outputs=len(targets))
        return nan_unless_finite(errors.view(-1), predictions)
    options: Any = {"average": "micro", "multidim_average": "samplewise"}
    shares = multiclass_accuracy(predictions.transpose(1, 2), targets, predictions.shape[2], **options)
    return nan_unless_finite(100 * shares, predictions)


def prediction_rows(predictions: Tensor, targets: Tensor, regression: bool) -> Tensor:
    """What a test saves of each query: label, predicted label and its probability, (B, Q, 3), or target and
    prediction, (B, Q, 2 outputs)."""
    if regression:
        return torch.cat([targets, predictions], -1)
    labels = predictions.argmax(-1, keepdim=True)
    probability = predictions.float().softmax(-1).gather(-1, labels)
    return torch.cat([targets.unsqueeze(-1), labels, probability], -1)
