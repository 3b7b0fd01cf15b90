"""Where curves go: a csv in the run's folder always, Weights & Biases unless it is switched off."""

import csv
import json
import logging
import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger

FIELDS = ("tasks", "step", "metric", "value")


def quiet() -> None:
    """Keeps Lightning's advice off the screen; its warnings about what a run does stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        "Checkpoint directory",
        ".*LeafSpec",
        "The number of training batches",
        ".*does not have many workers",
    ):
        warnings.filterwarnings("ignore", text)


class MetricsCsv(Logger):
    """Appends every logged number to `metrics.csv`, one a row: tasks seen, update, metric, value."""

    name = "csv"
    version = ""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def cut(self, tasks: float) -> None:
        """Drops what was logged after `tasks` tasks: a resumed run logs it again."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if float(row["tasks"]) <= tasks]
            with self.path.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(kept)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        tasks = metrics.get("tasks")
        if tasks is None:
            return
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(FIELDS)
            for name, value in metrics.items():
                if name not in ("tasks", "epoch"):
                    writer.writerow((int(tasks), step, name, value))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run's folder holds its configuration already."""


def wandb_online() -> bool:
    """Whether the user asked W&B to be online, or is logged in; otherwise runs are kept offline."""
    mode = os.environ.get("WANDB_MODE")
    return mode == "online" if mode else wandb.login(prompt=False)


def wandb_logger(folder: Path, config: Mapping[str, Any], name: str) -> WandbLogger:
    """The run's W&B logger; the run's id is kept in its folder, so that a resumed run goes on in the same one."""
    id_file = folder / "wandb_id"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    data, method = config["data"]["name"], config["method"]["name"]
    os.environ.setdefault("WANDB_SILENT", "true")  # its banners; errors are still raised
    online = wandb_online()
    logger = WandbLogger(
        name=name,
        save_dir=str(folder),
        offline=not online,
        id=id_file.read_text(),
        project="fewshot",
        resume="allow",
        group=f"{data}-{config['shots']}shot-{config['form']}",
        job_type=method,
        tags=[method, data, f"{config['shots']}-shot", config["form"], config["backbone"]["name"]],
        config=json.loads(json.dumps(config)),
        settings=wandb.Settings(mode="online" if online else "offline", silent=True, console="off"),
    )
    logger.experiment.define_metric("tasks")
    logger.experiment.define_metric("*", step_metric="tasks")
    return logger
