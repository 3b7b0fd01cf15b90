"""A report as a W&B run: its tables and figures, in the group of its study."""

import os
from pathlib import Path
from typing import Any

import wandb
from omegaconf import DictConfig

from fewshot.plots.episodes import as_image
from fewshot.report.jobs import wandb_name
from fewshot.report.write import Report
from fewshot.training.loggers import kept_id, staged_in, wandb_mode


def log(report: Report, cfg: DictConfig, folder: Path) -> None:
    """Logs it as a run of job type "report", the same one each time, offline unless the user is logged in."""
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = cfg.logger
    shown: dict[str, Any] = {name: wandb.Image(as_image(figure)) for name, figure in report.figures.items()}
    for caption, frame in report.tables.items():
        shown[caption.split(":")[0]] = wandb.Table(dataframe=frame.astype(str))
    with staged_in(folder):
        run = wandb.init(
            **{"entity": logger.entity, "project": logger.project, "group": logger.group or cfg.study},
            **{"name": wandb_name(report.title), "job_type": "report", "dir": folder, "mode": wandb_mode()},  # type: ignore[arg-type]
            **{"id": kept_id(folder / "wandb_id"), "resume": "allow"},  # type: ignore[arg-type]
            tags=[*filter(None, [cfg.study]), "report", *logger.tags],
            config={"study": cfg.study, "variant": cfg.variant},
            settings=wandb.Settings(silent=True, console="off"),
        )
        run.log(shown)
        run.summary["notes"] = "\n".join(report.notes)
        run.finish()
