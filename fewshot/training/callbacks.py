"""What Lightning leaves to a project: a validation at step 0, curves by training tasks, Figure 6."""

import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor
from torch.nn.utils import get_total_norm

from fewshot.episodes import Episode
from fewshot.files import atomic_open
from fewshot.methods.oplstm import OPLSTM
from fewshot.results.statistics import mean_and_ci95

FIELDS = ["tasks", "step", "metric", "value"]
STEP = 0.01  # of gradient descent in Figure 6, section 5.4


class ProgressBar(RichProgressBar):
    """Lightning's bar over updates, without epochs, which mean nothing here."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps  # Lightning's is what is left, beside a count from the beginning

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"


class PrintValidation(Callback):
    """A line a validation with its score, where there is no bar: in a log file, or on a cluster."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        metric = f"val/{pl_module.task.metric}"
        score = f"{metric} {trainer.callback_metrics[metric]:.4g}"
        print(f"update {trainer.global_step} of {trainer.max_steps}: {score}", file=sys.stderr)


class ValidateFirst(Callback):
    """Validates before the first update of a run, so that every curve starts at the untrained learner."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


class TrainMetrics(Callback):
    """Logs training every `every` updates, beside the number of training tasks seen.

    The gradient is that before any clipping. A row that Lightning logged itself would come after the save of
    its update, and be lost where a run stops there.
    """

    def __init__(self, meta_batch_size: int, every: int) -> None:
        self.meta_batch_size, self.every, self.norm = meta_batch_size, every, torch.tensor(math.nan)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if (trainer.global_step + 1) % self.every == 0:
            self.norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Episode, *_: Any
    ) -> None:
        step = trainer.global_step
        if step % self.every != 0:
            return

        def mean(of_tasks: Tensor) -> float:
            total = trainer.strategy.reduce(of_tasks.detach().clone(), reduce_op="sum")
            return total.item() / self.meta_batch_size

        row = {"tasks": float(step * self.meta_batch_size), "train/loss": mean(outputs["loss"])}
        row["train/gradient_norm"] = outputs.get("gradient_norm", self.norm).item()
        if not pl_module.task.regression:
            row["train/accuracy"] = mean(pl_module.scores(outputs["predictions"], batch.query_y).sum())
        for logger in trainer.loggers:
            logger.log_metrics(row, step)
        pl_module.log("train/loss", row["train/loss"], prog_bar=True, logger=False)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = float(trainer.global_step)
        pl_module.log("tasks", step * self.meta_batch_size, sync_dist=True)
        pl_module.log("step", step, sync_dist=True)  # which Lightning takes for its own, one less


class MetricsCsv(Logger):
    """Appends every logged number to `metrics.csv`, one per row: tasks seen, step, metric, value.

    Lightning's CSVLogger replaces the file when a run resumes.
    """

    name = "csv"
    version = None

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def cut(self, step: int) -> None:
        """Drops rows after a step, which a resumed run logs again, and a row that a kill left incomplete."""
        if not self.path.exists():
            return
        with self.path.open(newline="", errors="replace") as old, atomic_open(self.path) as new:
            rows = [row for row in csv.reader(old) if len(row) == len(FIELDS) and row[1].isdigit()]
            csv.writer(new).writerows([FIELDS, *(row for row in rows if int(row[1]) <= step)])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "tasks" not in metrics:
            return
        tasks = int(metrics["tasks"])
        rows = [(tasks, step, name, value) for name, value in metrics.items() if name != "tasks"]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows if file.tell() else [FIELDS, *rows])

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run's folder already holds its configuration."""


class Similarity(Callback):
    """Logs, at every validation, means of `similarities` over the tasks and their 95% intervals."""

    def __init__(self, definition: str) -> None:
        self.definition = definition
        self.seen: list[dict[str, Tensor]] = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Episode, *_: Any
    ) -> None:
        assert isinstance(pl_module, OPLSTM)
        self.seen.append(similarities(pl_module, batch, self.definition))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name in self.seen[0]:
            mean, ci95 = mean_and_ci95(torch.cat([values[name] for values in self.seen]).tolist())
            pl_module.log(f"similarity_{self.definition}/{name}", mean)
            pl_module.log(f"similarity_{self.definition}/{name}_ci95", ci95 or 0.0)
        self.seen.clear()


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
