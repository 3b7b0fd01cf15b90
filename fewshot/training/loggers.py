"""Where curves go: a csv in the run's folder, and Weights & Biases if wanted."""

import csv
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig

from fewshot.config.compose import choices_of, plain
from fewshot.config.run_id import is_reduced, run_name
from fewshot.errors import brief
from fewshot.files import atomic_open, atomic_write

FIELDS = ["tasks", "step", "metric", "value"]


def quiet() -> None:
    """Hides Lightning's advice; warnings about what a run computes stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore", PossibleUserWarning)
    for message in ("Checkpoint directory", ".*LeafSpec", "The AccumulateGrad node's stream"):
        warnings.filterwarnings("ignore", message)


class MetricsCsv(Logger):
    """Appends every logged number to `metrics.csv`, one per row: tasks seen, step, metric, value.

    Lightning's CSVLogger replaces the file when a run resumes.
    """

    name = "csv"
    version = None

    def __init__(self, path: Path, meta_batch_size: int) -> None:
        super().__init__()
        self.path, self.meta_batch_size = path, meta_batch_size

    def cut(self, step: int) -> None:
        """Drops rows after a step, which a resumed run logs again, and a row that a kill left incomplete."""
        if not self.path.exists():
            return
        seen = step * self.meta_batch_size
        with self.path.open(newline="", errors="replace") as old, atomic_open(self.path) as new:
            rows = [row for row in csv.reader(old) if len(row) == len(FIELDS) and row[0].isdigit()]
            csv.writer(new).writerows([FIELDS, *(row for row in rows if int(row[0]) <= seen)])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if (tasks := metrics.get("tasks")) is None:
            return
        seen = (int(tasks), round(tasks / self.meta_batch_size))
        rows = [(*seen, name, value) for name, value in metrics.items() if name not in ("tasks", "epoch")]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows if file.tell() else [FIELDS, *rows])

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run's folder already holds its configuration."""


def wandb_settings(folder: Path, id_file: str = "wandb_id") -> dict[str, Any]:
    """W&B's settings for what is kept in `folder`: offline unless the user is logged in or sets WANDB_MODE.

    The id is kept in a file, so that a resumed run continues the same W&B run.
    """
    import wandb  # takes more than half a second

    os.environ.setdefault("WANDB_SILENT", "true")
    if not (kept := folder / id_file).exists():
        atomic_write(kept, secrets.token_hex(4))
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    settings = wandb.Settings(silent=True, console="off")
    return {"id": kept.read_text(), "resume": "allow", "dir": folder, "mode": mode, "settings": settings}


def first_and_number(config: Mapping[str, Any]) -> dict[str, Any]:
    """The number of layers and the units of the first: W&B plots and ranks numbers, not lists of units."""
    found: dict[str, Any] = {"layers": {}, "units": {}}
    for group in ("method", "backbone"):
        lists = {name: value for name, value in config[group].items() if isinstance(value, list) and value}
        found["layers"][group] = {name: len(units) for name, units in lists.items()}
        found["units"][group] = {name: units[0] for name, units in lists.items()}
    return found


def start_wandb(cfg: DictConfig, folder: Path, test: str = "") -> Any:
    """The W&B run of a run, or of a later `test` of it, named as its file in `evaluations`."""
    import wandb

    config, data, variant = plain(cfg), cfg.data.name, cfg.variant
    group = [cfg.study, data, f"{cfg.shots}shot", variant, "reduced" if is_reduced(cfg) else ""]
    settings = wandb_settings(folder, f"evaluations/{test}.wandb_id" if test else "wandb_id") | {
        "project": cfg.logger.project,
        "entity": cfg.logger.entity,
        "group": cfg.logger.group or "-".join(filter(None, group)),
        "name": run_name(cfg, folder) + (f"-on-{test}" if test else ""),
        "job_type": "evaluate" if test else "search" if cfg.study in choices_of("search") else "train",
        "tags": [cfg.method.name, data, f"{cfg.shots}-shot", variant, cfg.backbone.name, *cfg.logger.tags],
        "config": config | first_and_number(config),
    }
    try:
        run = wandb.init(**settings)
    except wandb.Error as error:
        print(f"W&B does not start ({brief(error, 200)}): the run is kept offline", file=sys.stderr)
        run = wandb.init(**settings | {"mode": "offline"})
    run.define_metric("tasks")
    run.define_metric("*", step_metric="tasks")
    for metric, best in (("val/accuracy", "max"), ("val/mse", "min"), ("val/loss", "min")):
        run.define_metric(metric, step_metric="tasks", summary=best)
    return run


def end_wandb() -> None:
    """Ends the current W&B run, if any: the next job of a multirun has its own."""
    if "wandb" in sys.modules:
        try:
            sys.modules["wandb"].finish()
        except Exception as error:  # must not lose the run's result
            print(f"W&B did not finish: {brief(error, 200)}", file=sys.stderr)
