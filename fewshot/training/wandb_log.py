"""What Weights & Biases keeps of a run and of its tests: settings, scores, pictures and the best state."""

import os
import secrets
import sys
from pathlib import Path
from typing import Any

import wandb
from matplotlib.figure import Figure
from omegaconf import DictConfig
from pandas import DataFrame

from fewshot.config.compose import choices_of, flatten, plain
from fewshot.config.run_id import is_reduced, run_name
from fewshot.errors import brief
from fewshot.files import atomic_write
from fewshot.results.paper import paper_numbers
from fewshot.results.record import Result

Tables = dict[str, DataFrame]
Figures = dict[str, Figure]
PUBLIC = ("sine", "omniglot", "glyphs")  # data sets whose images may be published without being asked
SUMMARY = ["status", "best_step", "best_validation", "parameters"]
SUMMARY += ["train_tasks", "tasks_per_second", "peak_memory_bytes"]
PROTOCOL = ("tasks", "ways", "shots", "test_queries", "bn", "run_status")


def wandb_settings(folder: Path) -> dict[str, Any]:
    """W&B's settings for what is kept in `folder`: offline unless the user is logged in or sets WANDB_MODE.

    The id is kept in a file, so that a resumed run continues the same W&B run.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    if not (kept := folder / "wandb_id").exists():
        atomic_write(kept, secrets.token_hex(4))
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    settings = wandb.Settings(silent=True, console="off", reinit="finish_previous")  # of a failed job
    return {"id": kept.read_text(), "resume": "allow", "dir": folder, "mode": mode, "settings": settings}


def start_wandb(cfg: DictConfig, folder: Path, test: str = "") -> Any:
    """The W&B run of a run, or of a later `test` of it, named as its folder in `evaluations`."""
    config, data, variant = plain(cfg), cfg.data.name, cfg.variant
    group = [cfg.study, data, f"{cfg.shots}shot", variant, "reduced" if is_reduced(cfg) else ""]
    lists = flatten({name: config[name] for name in ("method", "backbone")}).items()
    numbers = {"layers": {name: len(value) for name, value in lists if isinstance(value, list)}}
    numbers["units"] = {name: value[0] for name, value in lists if isinstance(value, list) and value}
    settings = wandb_settings(folder / "evaluations" / test if test else folder) | {
        "dir": folder,
        "project": cfg.logger.project,
        "entity": cfg.logger.entity,
        "group": cfg.logger.group or "-".join(filter(None, group)),
        "name": run_name(cfg, folder) + (f"-on-{test}" if test else ""),
        "job_type": "evaluate" if test else "search" if cfg.study in choices_of("search") else "train",
        "tags": [cfg.method.name, data, f"{cfg.shots}-shot", variant, cfg.backbone.name, *cfg.logger.tags],
        "config": config | numbers,  # which W&B plots, unlike lists
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


def log(cfg: DictConfig, folder: Path, result: Result, tables: Tables, drawn: Figures) -> None:
    """Logs a run that has ended, or a later test in `folder` as a W&B run of its own.

    Images of data sets that are not public only if they may be published: an offline run may be synced later.
    """
    if not cfg.logger.pictures and result["data"] not in PUBLIC:
        drawn = {}
    if "run" in result:  # a later test
        with start_wandb(cfg, folder.parents[1], folder.name) as own:
            log_test(own, f"test/{result['data']}", result, tables, drawn)
        return
    run: Any = wandb.run
    with run:  # which ends here
        measures = {f"interpretability/{name}": value for name, value in result["interpretability"].items()}
        run.summary.update({name: result.get(name) for name in SUMMARY} | measures)
        if result["status"] == "finished":
            log_test(run, "test", result, tables, drawn)
            if cfg.logger.checkpoint:
                model = wandb.Artifact(f"model-{run.id}", "model", metadata=result)
                model.add_file(str(folder / "best.ckpt"), skip_cache=True, policy="immutable")  # no copy
                run.log_artifact(model, aliases=["best", "latest"])


def log_test(run: Any, prefix: str, result: Result, tables: Tables, drawn: Figures) -> None:
    """Logs a test under `<prefix>/`: its score, interval, protocol, tables and pictures.

    If the protocol is the paper's, also the paper's mean over three runs and our difference from it.
    """
    mean, ci95, paper = result["mean"], result["ci95"], paper_numbers(result).get("value")
    values = {result["metric"]: mean} | result["baselines"] | {name: result.get(name) for name in PROTOCOL}
    if ci95 is not None:
        values |= {"ci95_low": mean - ci95, "ci95_high": mean + ci95}
    if paper is not None:
        values |= {"paper_mean": paper, "paper_difference": mean - paper}
    run.summary.update({f"{prefix}/{name}": value for name, value in values.items()})
    logged: dict[str, Any] = {name: wandb.Table(dataframe=table) for name, table in tables.items()}
    if drawn:
        logged["pictures"] = [wandb.Image(figure, caption=name) for name, figure in drawn.items()]
    run.log({f"{prefix}/{name}": value for name, value in logged.items()})
