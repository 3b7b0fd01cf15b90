"""What every meta-learner shares: training, validation and test steps, losses and scores."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import CatMetric

from fewshot.episodes import Episode, Task
from fewshot.errors import UserError
from fewshot.methods.losses import accumulated, baseline_scores, nan_unless_finite, query_rows, squared_errors
from fewshot.options import Positive, Validated

Lr = Annotated[Positive, "learning rate of Adam; the loss is the sum over the meta-batch, as released"]


class MetaLearner(Validated, L.LightningModule):
    """Base class of the learners; a learner's options are the annotated parameters of its constructor.

    One without a learning rate, or without parameters, is only validated and tested.
    """

    regression = True  # False: for classification only
    has_head = True  # False: no weight depends on the number of ways, so that training and test may differ
    uses_backbone = True  # False: inputs are read raw
    pure = False  # True: `losses` depends on weights and episode alone: no counters, no `.item()`
    grad_clip: float | None = None  # where the elements of the meta-gradient are clipped
    micro_batch_size: int | None = None  # tasks per backward pass in an update; None: the whole meta-batch
    update_kind = "eager"  # of the last training; or "compiled", "captured": see fewshot.training.update

    def save_arguments(self, arguments: dict[str, Any]) -> None:
        """Saves the arguments as plain data, from which `load_from_checkpoint` builds the learner."""
        if "task" in arguments:  # a subclass's arguments replace those that its base class saved
            self.hparams.clear()
        plain = arguments | {"task": asdict(self.task)}
        if "weights" in plain.get("backbone", {}):
            plain["backbone"] = {**plain["backbone"], "weights": None}  # the checkpoint has its own weights
        self.save_hyperparameters(json.loads(json.dumps(plain)), logger=False)

    def __init__(self, task: Task, lr: Lr | None = None) -> None:
        super().__init__()
        if task.regression and not self.regression:
            raise UserError(f"{type(self).__name__} is for classification only: choose other data")
        if task.train_outputs is not None and self.has_head:
            one_each = f"{type(self).__name__} has one output per class of a test task"
            raise UserError(f"train_ways={task.train_outputs}: {one_each}")
        self.task, self.lr = task, lr
        self.val_rows = CatMetric(nan_strategy="disable")  # of each task score and loss, which may be NaN
        self.test_rows = CatMetric(nan_strategy="disable")  # number, score, baseline, `query_rows`

    @property
    def is_trained(self) -> bool:
        return self.lr is not None and next(self.parameters(), None) is not None

    @property
    def outputs(self) -> int:
        """The number of outputs of a task; training may have other ways than validation and test."""
        return (self.training and self.task.train_outputs) or self.task.outputs

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Predictions for the queries, (B, Q, outputs): logits or real values; inputs as in `Episode`."""
        raise NotImplementedError

    def interpretability(self) -> dict[str, float]:
        """Metrics of the trained learner by name, recorded with its result."""
        return {}

    def predict(self, episode: Episode) -> Tensor:
        """Predictions for the queries, (B, Q, outputs); with transductive batch norm, of all together."""
        return self(episode.support_x, episode.support_y, episode.query_x)

    def task_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Each task's loss, (B,): cross-entropy or squared error, averaged over its examples."""
        if self.task.regression:
            return squared_errors(predictions, targets)
        return F.cross_entropy(predictions.transpose(1, 2), targets, reduction="none").mean(1)

    def targets(self, y: Tensor) -> Tensor:
        """Labels as a learner reads them, (B, M, outputs): one-hot classes, or the values."""
        return y if self.task.regression else F.one_hot(y, self.outputs).to(self.dtype)

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Each task's score, (B,): accuracy in % or mean squared error; NaN if a prediction is not finite."""
        if self.task.regression:
            return nan_unless_finite(squared_errors(predictions, targets), predictions)
        scores = 100 * (predictions.argmax(-1) == targets).float().mean(1)
        return nan_unless_finite(scores, predictions)

    def losses(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Each task's loss, (B,), and the predictions; the gradient of the losses' sum trains the learner."""
        predictions = self.predict(episode)
        return nan_unless_finite(self.task_losses(predictions, episode.query_y), predictions), predictions

    def training_step(self, episode: Episode, batch_idx: int) -> dict[str, Tensor]:
        if self.micro_batch_size:
            losses, predictions = accumulated(self, episode, self.micro_batch_size)
        else:
            losses, predictions = self.losses(episode)
        if getattr(self._trainer, "log_every_n_steps", True):  # 0 in a run, where `TrainMetrics` logs
            self.log("train/loss", losses.detach().mean(), prog_bar=True, batch_size=len(losses))
        return {"loss": losses.sum(), "predictions": predictions.detach()}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.grad_clip is not None:
            nn.utils.clip_grad_value_(self.parameters(), self.grad_clip)

    def on_validation_epoch_start(self) -> None:
        self.val_rows.reset()

    def validation_step(self, episode: Episode, batch_idx: int) -> None:
        predictions = self.predict(episode)
        scores = self.scores(predictions, episode.query_y)
        self.val_rows.update(torch.stack([scores, self.task_losses(predictions, episode.query_y)], 1))

    def on_validation_epoch_end(self) -> None:
        scores, losses = self.val_rows.compute().T.contiguous()
        self.log(f"val/{self.task.metric}", scores.mean(), prog_bar=True, sync_dist=True)
        self.log("val/loss", losses.mean(), sync_dist=True)

    def on_test_start(self) -> None:
        self.test_rows.reset()

    def test_step(self, episode: Episode, batch_idx: int) -> None:
        predictions = self.predict(episode)
        scores, baselines = self.scores(predictions, episode.query_y), baseline_scores(episode, self.task)
        rows = query_rows(predictions, episode, self.task).flatten(1)
        self.test_rows.update(torch.column_stack([episode.tasks, scores, baselines, rows]))

    def on_test_epoch_end(self) -> None:
        rows = self.test_rows.compute()  # gathers those of all processes while they still exist
        self.log(f"test/{self.task.metric}", rows[:, 1].mean(), sync_dist=True)
        self.log(f"test/{self.task.baseline}", rows[:, 2].mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.lr is not None
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)


def query_pass(forward: Callable[..., Tensor], bn: str, support_x: Tensor, query_x: Tensor) -> Tensor:
    """`forward` on the queries, (B, Q, ...), normalised by their own statistics or by the support set's."""
    if bn != "support":
        return forward(query_x)
    shots = support_x.shape[1]
    return forward(torch.cat([support_x, query_x], 1), reference=shots)[:, shots:]
