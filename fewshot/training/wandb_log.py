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
# not "tasks", which is the axis of the curves
SUMMARY = ("status", "best_step", "best_validation", "parameters", "train_tasks")
SPEED = ("tasks_per_second", "peak_memory_bytes")
PROTOCOL = ("tasks", "ways", "shots", "test_queries", "bn", "run_status")
OF_MODEL = ("method", "data", "shots", "metric", "mean", "best_validation", "best_step")


def log_test(run: Any, prefix: str, result: Mapping[str, Any]) -> None:
    """Writes a test's score, both ends of its interval, and its protocol into the summary, as `<prefix>/…`.

    If the protocol is the paper's, also the paper's mean over three runs and our difference from it.
    """
    mean, ci95, paper = result["mean"], result["ci95"], paper_figure(result)
    values = {result["metric"]: mean} | result.get("baselines", {})
    values |= {name: result[name] for name in PROTOCOL if name in result}
    if ci95 is not None:
        values |= {"ci95_low": mean - ci95, "ci95_high": mean + ci95}
    if paper is not None:
        values |= {"paper_mean": paper, "paper_difference": mean - paper}
    run.summary.update({f"{prefix}/{name}": value for name, value in values.items()})


def log_tasks(run: Any, prefix: str, scores: Scores) -> None:
    """Logs each test task's score beside its baseline, and a histogram of the scores.

    As `<prefix>/task_scores` and `<prefix>/scores`: `<prefix>/tasks` is their number.
    """
    if scores.tasks:
        baseline = next(iter(scores.summary["baselines"]))
        rows = [list(row) for row in zip(scores.tasks, scores.values, scores.baselines, strict=True)]
        table = wandb.Table(columns=["task", "score", baseline], data=rows)
        run.log({f"{prefix}/task_scores": table, f"{prefix}/scores": wandb.Histogram(scores.values)})


def log_predictions(run: Any, prefix: str, predictions: DataFrame | None) -> None:
    """Logs the confusion counts of a test whose predictions were kept: a row per true and predicted class."""
    if predictions is not None and "true" in predictions:
        run.log({f"{prefix}/confusion": wandb.Table(dataframe=confusions(predictions))})


def log_checkpoint(run: Any, best: Path, result: Mapping[str, Any]) -> None:
    """Logs the best validated state as the run's model, uploaded without a staged copy."""
    artifact = wandb.Artifact(f"model-{run.id}", "model", metadata={key: result[key] for key in OF_MODEL})
    artifact.add_file(str(best), best.name, skip_cache=True, policy="immutable")
    run.log_artifact(artifact, aliases=["best", "latest"])


def log_result(
    run: Any, result: Mapping[str, Any], figures: Sequence[tuple[int, float, Figure]], publish: bool
) -> None:
    """Writes a result into a W&B run: its summary, and pictures of some test tasks.

    Args:
        run: the W&B run. An offline one may be synced later, so it gets no more than an online one.
        result: what `result.json` holds; without a mean (no test was made) no score is written.
        figures: number, score and figure of test tasks, from `test_figures`.
        publish: whether images of data sets that are not public may be logged too.
    """
    run.summary.update({key: result.get(key) for key in SUMMARY + SPEED})
    for name, value in result.get("interpretability", {}).items():
        run.summary[f"interpretability/{name}"] = value
    if result.get("mean") is not None:
        log_test(run, "test", result)
    if figures and (publish or result["data"] in PUBLIC):
        run.log({"test/pictures": [picture(*figure) for figure in figures]})


def picture(task: int, score: float, figure: Figure) -> wandb.Image:
    return wandb.Image(as_image(figure), caption=f"test task {task}: {score:.4g}")
