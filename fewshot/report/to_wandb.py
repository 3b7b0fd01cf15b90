"""A report as a W&B run: its tables and figures, in the group of its study."""

import os
from pathlib import Path
from typing import Any

import wandb
from omegaconf import DictConfig, OmegaConf

from fewshot.plots.episodes import as_image
from fewshot.report.runs import in_wandb
from fewshot.report.write import Report
from fewshot.training.loggers import kept_id, staged_in, wandb_mode


def log(report: Report, cfg: DictConfig, folder: Path) -> None:
    """Logs it as a run of job type "report", the same one each time, offline unless the user is logged in.

    `folder` keeps its id and what is staged.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    told: Any = OmegaConf.to_container(cfg.logger, resolve=True)
    with staged_in(folder):
        run = wandb.init(
            name=in_wandb(report.title),
            id=kept_id(folder / "wandb_id"),
            resume="allow",
            dir=folder,
            mode=wandb_mode(),  # type: ignore[arg-type]
            project=told["project"],
            entity=told["entity"],
            group=told["group"] or cfg.study,
            job_type="report",
            tags=[*filter(None, [cfg.study]), "report", *told["tags"]],
            config={"study": cfg.study, "variant": cfg.variant},
            settings=wandb.Settings(silent=True, console="off"),
        )
        shown: dict[str, Any] = {
            name: wandb.Image(as_image(figure)) for name, figure in report.figures.items()
        }
        for caption, frame in report.tables.items():
            shown[caption.split(":")[0]] = wandb.Table(dataframe=frame.astype(str))
        run.log(shown)
        run.summary["words"] = "\n".join(report.words)
        run.finish()
