"""What Weights & Biases keeps of a run and of its tests: settings, scores, pictures and the best state."""

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from matplotlib.figure import Figure
from omegaconf import DictConfig
from pandas import DataFrame

from fewshot.config.compose import choices_of, plain
from fewshot.config.run_id import is_reduced, run_name
from fewshot.errors import brief
from fewshot.files import atomic_write
from fewshot.results.paper import paper_figure
from fewshot.results.predictions import confusions
from fewshot.results.record import Scores

PUBLIC = ("sine", "omniglot", "glyphs")  # data sets whose images may be published without being asked
OF_RUN = ("status", "best_step", "best_validation", "parameters", "train_tasks")
SPEED = ("tasks_per_second", "peak_memory_bytes")
PROTOCOL = ("tasks", "ways", "shots", "test_queries", "bn", "run_status")
OF_MODEL = ("method", "data", "shots", "metric", "mean", "best_validation", "best_step")


def wandb_settings(folder: Path, id_file: str = "wandb_id") -> dict[str, Any]:
    """W&B's settings for what is kept in `folder`: offline unless the user is logged in or sets WANDB_MODE.

    The id is kept in a file, so that a resumed run continues the same W&B run.
    """
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


def log_test(
    run: Any, prefix: str, result: Mapping[str, Any], scores: Scores, predictions: DataFrame | None = None
) -> None:
    """Logs a test under `<prefix>/`: its score, interval and protocol, each task's score, and confusions.

    If the protocol is the paper's, also the paper's mean over three runs and our difference from it.
    """
    mean, ci95, paper = result["mean"], result["ci95"], paper_figure(result)
    values = {result["metric"]: mean} | result["baselines"]
    values |= {name: result[name] for name in PROTOCOL if name in result}
    if ci95 is not None:
        values |= {"ci95_low": mean - ci95, "ci95_high": mean + ci95}
    if paper is not None:
        values |= {"paper_mean": paper, "paper_difference": mean - paper}
    run.summary.update({f"{prefix}/{name}": value for name, value in values.items()})
    rows = [list(row) for row in zip(scores.tasks, scores.values, scores.baselines, strict=True)]
    table = wandb.Table(columns=["task", "score", next(iter(result["baselines"]))], data=rows)
    run.log({f"{prefix}/task_scores": table, f"{prefix}/scores": wandb.Histogram(scores.values)})
    if predictions is not None and "true" in predictions:
        run.log({f"{prefix}/confusion": wandb.Table(dataframe=confusions(predictions))})


def log_result(
    run: Any, result: Mapping[str, Any], figures: Sequence[tuple[int, float, Figure]], publish: bool
) -> None:
    """Logs how a run ended, and pictures of some test tasks: number, score and figure.

    Images of data sets that are not public only with `publish`: an offline run may be synced later.
    """
    run.summary.update({key: result.get(key) for key in OF_RUN + SPEED})
    measures = result.get("interpretability", {})
    run.summary.update({f"interpretability/{name}": value for name, value in measures.items()})
    if figures and (publish or result["data"] in PUBLIC):
        images = [wandb.Image(image, caption=f"test task {n}: {score:.4g}") for n, score, image in figures]
        run.log({"test/pictures": images})


def log_checkpoint(run: Any, best: Path, result: Mapping[str, Any]) -> None:
    """Logs the best validated state as the run's model, uploaded without a staged copy."""
    artifact = wandb.Artifact(f"model-{run.id}", "model", metadata={key: result[key] for key in OF_MODEL})
    artifact.add_file(str(best), best.name, skip_cache=True, policy="immutable")
    run.log_artifact(artifact, aliases=["best", "latest"])
