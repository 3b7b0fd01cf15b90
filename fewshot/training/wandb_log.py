"""What Weights & Biases keeps of a test: its score, the score of every task, pictures and the best state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from matplotlib.figure import Figure
from pandas import DataFrame

from fewshot.plots.episodes import as_image
from fewshot.results.paper import paper_figure
from fewshot.results.predictions import confusions
from fewshot.results.record import Scores

PUBLIC = ("sine", "omniglot", "glyphs")  # data sets whose images may be published without being asked
OF_RUN = ("status", "best_step", "best_validation", "parameters", "train_tasks")
SPEED = ("tasks_per_second", "peak_memory_bytes")
PROTOCOL = ("tasks", "ways", "shots", "test_queries", "bn", "run_status")
OF_MODEL = ("method", "data", "shots", "metric", "mean", "best_validation", "best_step")


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
        pictures = [
            wandb.Image(as_image(figure), caption=f"test task {task}: {score:.4g}")
            for task, score, figure in figures
        ]
        run.log({"test/pictures": pictures})


def log_checkpoint(run: Any, best: Path, result: Mapping[str, Any]) -> None:
    """Logs the best validated state as the run's model, uploaded without a staged copy."""
    artifact = wandb.Artifact(f"model-{run.id}", "model", metadata={key: result[key] for key in OF_MODEL})
    artifact.add_file(str(best), best.name, skip_cache=True, policy="immutable")
    run.log_artifact(artifact, aliases=["best", "latest"])
