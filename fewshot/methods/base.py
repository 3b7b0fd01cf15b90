"""The base of every meta-learner: steps, loss, scores and logging, once.

A learner is one idea: given a support set and query inputs, predict (`forward`). It learns from the shapes of
its task, never from where the data came from.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import CatMetric
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import multiclass_accuracy

from fewshot.baselines import baseline_name, baseline_scores
from fewshot.episodes import Episode, Task
from fewshot.errors import UserError
from fewshot.options import Positive, validated

Lr = Annotated[
    Positive, "learning rate of Adam, which sees the sum of the meta-batch's losses"
]  # as released


class MetaLearner(L.LightningModule):
    """What all learners share. A learner's options are the annotated parameters of its constructor.

    Raises:
        UserError: an option is not what its annotation allows, or options do not fit together.
    """

    steps_setting: str | None = (
        None  # the attribute that says how many passes or inner steps a test prediction takes
    )
    repeated: str | None = (
        None  # the method that training calls again and again, with equal shapes: to be compiled
    )
    one_graph = False  # whether `losses` takes no gradient of its own, so that a GPU can replay it as a whole
    replayable = (
        False  # whether `losses` is the same operations for every episode: no value read, no step counted
    )
    compiled = False  # whether training called one of these two as compiled code, at last
    captured = False  # whether a GPU replayed its `losses`, at last
    regression = True  # False where a learner classifies only
    micro_batch_size: int | None = None  # tasks at a time in an update; None: all
    keep_predictions = False  # whether a test collects its predictions, `test_predictions`
    has_head = True  # False where nothing is sized by the number of ways: training and test may differ

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            parent = super(cls, cls).__init__
            cls.__init__ = validated(cls.__init__, parent, MetaLearner.remember)  # type: ignore[method-assign]

    def remember(self, arguments: dict[str, Any]) -> None:
        """Keeps the arguments as hyperparameters, plain data from which `load_from_checkpoint` builds the learner."""
        plain = arguments | {"task": asdict(self.task)}
        if "backbone" in plain:
            plain["backbone"] = {**plain["backbone"], "weights": None}  # a checkpoint holds its own
        self.save_hyperparameters(json.loads(json.dumps(plain)), logger=False)

    def __init__(self, task: Task, lr: Lr) -> None:
        super().__init__()
        if task.regression and not self.regression:
            raise UserError(
                f"{type(self).__name__} classifies, and the task is regression: choose other data"
            )
        if task.train_outputs is not None and self.has_head:
            raise UserError(
                f"train_ways={task.train_outputs}: {type(self).__name__} has one output per class of a test task: "
                "leave it out, or choose ProtoNet"
            )
        self.task = task
        self.lr = lr
        self.val_scores, self.val_losses = (CatMetric(nan_strategy="disable") for _ in range(2))
        self.test_scores, self.test_baselines, self.test_tasks = (
            CatMetric(nan_strategy="disable") for _ in range(3)
        )
        self.test_predictions = CatMetric(nan_strategy="disable")

    @property
    def outputs(self) -> int:
        """The number of outputs of a task: training may have other ways than validation and test."""
        return (self.training and self.task.train_outputs) or self.task.outputs

    @property
    def uses_backbone(self) -> bool:
        """Whether the inputs go through the backbone; an LSTM may read them raw."""
        return True

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Predictions for the queries, (B, Q, outputs): logits of classes, or real values. Shapes as in `Episode`."""
        raise NotImplementedError

    def interpretability(self) -> dict[str, float]:
        """What a trained learner tells about itself, by name; kept with its result."""
        return {}

    def alike(self, *told: Any) -> tuple[Any, ...]:
        """The arguments of the method `repeated`, of one kind in all of its calls: each kind is compiled anew."""
        return told

    def predict(self, episode: Episode) -> Tensor:
        """Predictions for the queries of an episode, (B, Q, outputs), as `forward` makes them.

        With transductive batch norm, the default, the queries of a task are normalised by each other's statistics: a
        query is predicted differently among other queries, and cannot be predicted alone. With `bn="support"` of the
        backbone each query is predicted independently of the others, as a new image has to be.

        Raises:
            UserError: `forward` gives another shape, or a set has one example under transductive batch norm.
        """
        predictions = self(episode.support_x, episode.support_y, episode.query_x)
        wanted, found = (*episode.query_y.shape[:2], self.outputs), getattr(predictions, "shape", None)
        if found != wanted:
            told = type(predictions).__name__ if found is None else tuple(found)
            raise UserError(
                f"forward of {type(self).__name__} gives {told}, not {wanted}: tasks, queries, outputs"
            )
        return predictions

    def task_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Each task's mean loss over its examples, (B,): cross-entropy or squared error."""
        if self.task.regression:
            return F.mse_loss(predictions, targets, reduction="none").flatten(1).mean(1)
        return F.cross_entropy(predictions.transpose(1, 2), targets, reduction="none").mean(1)

    def targets(self, y: Tensor) -> Tensor:
        """What a learner may be told of the support set, (B, M, outputs): one-hot classes or the values."""
        return y if self.task.regression else F.one_hot(y, self.outputs).to(self.dtype)

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Each task's score, (B,): accuracy in %, or mean squared error; NaN where a prediction is not finite."""
        if self.task.regression:
            errors = mean_squared_error(
                predictions.flatten(1).T, targets.flatten(1).T, num_outputs=len(targets)
            )
            return nan_unless_finite(errors.view(-1), predictions)
        ways = predictions.shape[2]
        kwargs: Mapping[str, Any] = {"average": "micro", "multidim_average": "samplewise"}
        right = 100 * multiclass_accuracy(predictions.transpose(1, 2), targets, ways, **kwargs)
        return nan_unless_finite(right, predictions)

    def losses(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Each task's loss, (B,), and its predictions; the gradient of the losses' sum trains the learner."""
        predictions = self.predict(episode)
        return nan_unless_finite(self.task_losses(predictions, episode.query_y), predictions), predictions

    def losses_in_parts(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """`losses` of `micro_batch_size` tasks at a time, their graph gone before the next: less memory, equal gradients."""
        learned, done = list(self.parameters()), []
        totals = [torch.zeros_like(p) for p in learned]
        for part in zip(*(x.split(self.micro_batch_size) for x in episode), strict=True):
            losses, predictions = self.losses(Episode(*part))
            for total, grad in zip(
                totals, torch.autograd.grad(losses.sum(), learned, allow_unused=True), strict=True
            ):
                if grad is not None:
                    total += grad
            done.append((losses.detach(), predictions.detach()))
        losses, predictions = (torch.cat(parts) for parts in zip(*done, strict=True))
        return with_gradients(losses, learned, totals), predictions

    def training_step(self, episode: Episode, batch_idx: int) -> dict[str, Tensor]:
        """The loss, and the predictions of which whoever logs this step may make a score."""
        losses, predictions = self.losses_in_parts(episode) if self.micro_batch_size else self.losses(episode)
        if getattr(
            self._trainer, "log_every_n_steps", True
        ):  # a run logs by `TrainMetrics`, and not every update
            self.log("train/loss", losses.detach().mean(), prog_bar=True, batch_size=len(losses))
        return {"loss": losses.sum(), "predictions": predictions.detach()}

    def on_validation_epoch_start(self) -> None:
        for kept in (self.val_scores, self.val_losses):
            kept.reset()

    def validation_step(self, episode: Episode, batch_idx: int) -> None:
        predictions = self.predict(episode)
        self.val_scores.update(self.scores(predictions, episode.query_y))
        self.val_losses.update(self.task_losses(predictions, episode.query_y))

    def on_validation_epoch_end(self) -> None:
        scores = self.val_scores.compute().view(-1)
        self.log(f"val/{self.task.metric}", scores.mean(), prog_bar=True, sync_dist=True)
        self.log("val/loss", self.val_losses.compute().mean(), sync_dist=True)
        if len(scores) > 1:
            self.log("val/ci95", 1.96 * scores.std() / len(scores) ** 0.5, sync_dist=True)

    def on_test_start(self) -> None:
        for kept in (self.test_scores, self.test_baselines, self.test_tasks, self.test_predictions):
            kept.reset()

    def test_step(self, episode: Episode, batch_idx: int) -> None:
        predictions = self.predict(episode)
        scores = self.scores(predictions, episode.query_y)
        floors = baseline_scores(episode, self.task)
        self.test_scores.update(scores)
        self.test_baselines.update(floors)
        self.test_tasks.update(episode.tasks)
        if self.keep_predictions:
            self.test_predictions.update(self.rows(predictions, episode.query_y))

    def rows(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """What is kept of each query: label, predicted label and its probability, (B, Q, 3); for regression targets
        and predictions, (B, Q, 2 outputs)."""
        if self.task.regression:
            return torch.cat([targets, predictions], -1)
        labels = predictions.argmax(-1, keepdim=True)
        probability = predictions.float().softmax(-1).gather(-1, labels)
        return torch.cat([targets.unsqueeze(-1), labels, probability], -1)

    def on_test_epoch_end(self) -> None:
        self.test_tasks.compute()  # where processes share the test, now: later their devices are given back
        if self.keep_predictions:
            self.test_predictions.compute()
        self.log(f"test/{self.task.metric}", self.test_scores.compute().mean(), sync_dist=True)
        self.log(f"test/{baseline_name(self.task)}", self.test_baselines.compute().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)


def nan_unless_finite(values: Tensor, predictions: Tensor) -> Tensor:
    """`values` (B,), NaN for tasks with a prediction that is not finite, of which an argmax would make a class."""
    return values.masked_fill(~predictions.detach().isfinite().flatten(1).all(1), float("nan"))


def with_gradients(losses: Tensor, learned: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """`losses` (B,), whose sum has `grads` as its gradient for `learned`.

    Lightning differentiates one loss, and these gradients are those of several. g · (p - p.detach()) is zero, and its
    derivative for p is g.
    """
    gradient = torch.stack([(g * (p - p.detach())).sum() for g, p in zip(grads, learned, strict=True)]).sum()
    return losses.detach() + gradient / len(losses)


def query_pass(forward: Callable[..., Tensor], bn: str, support_x: Tensor, query_x: Tensor) -> Tensor:
    """`forward` over the queries, (B, Q, ...), normalised by their own statistics or by the support set's."""
    if bn != "support":
        return forward(query_x)
    shots = support_x.shape[1]
    return forward(torch.cat([support_x, query_x], 1), reference=shots)[:, shots:]
