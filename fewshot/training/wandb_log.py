"""What Weights & Biases keeps of a test: the score and its interval, that of every task, pictures, the best state."""

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

# what may be shown to all; photographs of the other data sets, and users' own, are not ours to publish
OURS = ("sine", "omniglot", "glyphs")
SUMMARY = (
    "status",
    "best_step",
    "best_validation",
    "parameters",
    "train_tasks",  # not "tasks": that is the axis of the curves
    "tasks_per_second",
    "peak_memory_bytes",
)
PROTOCOL = (
    "tasks",
    "ways",
    "shots",
    "test_queries",
    "bn",
    "run_status",
)  # the last only of what evaluate.py tested
OF_MODEL = ("method", "data", "shots", "metric", "mean", "best_validation", "best_step")


def log_test(run: Any, under: str, result: Mapping[str, Any]) -> None:
    """Writes a test's score with both ends of its interval, and its protocol, into the summary, as `<under>/…`.

    Beside it, where the protocol is the paper's, its mean over three runs and how far the score is above it.
    """
    mean, ci95 = result["mean"], result["ci95"]
    run.summary[f"{under}/{result['metric']}"] = mean
    if ci95 is not None:
        run.summary[f"{under}/ci95_low"], run.summary[f"{under}/ci95_high"] = mean - ci95, mean + ci95
    run.summary.update({f"{under}/{name}": result[name] for name in PROTOCOL if name in result})
    for name, score in result.get("baselines", {}).items():
        run.summary[f"{under}/{name}"] = score
    if (figure := paper_figure(result)) is not None:
        run.summary[f"{under}/paper_mean"], run.summary[f"{under}/paper_difference"] = figure, mean - figure


def log_tasks(run: Any, under: str, scores: Scores) -> None:
    """Logs each test task's score beside what needs no learning on it, and how the scores are distributed.

    As `<under>/task_scores` and `<under>/scores`: `<under>/tasks` is their number.
    """
    if scores.tasks:
        floor = next(iter(scores.summary["baselines"]))
        rows = [list(row) for row in zip(scores.tasks, scores.values, scores.baselines, strict=True)]
        table = wandb.Table(columns=["task", "score", floor], data=rows)
        run.log({f"{under}/task_scores": table, f"{under}/scores": wandb.Histogram(scores.values)})


def log_predictions(run: Any, under: str, predictions: DataFrame | None) -> None:
    """Logs the confusion matrix of a test, where its predictions were kept: a row a true and a predicted class."""
    if predictions is not None and "true" in predictions:
        run.log({f"{under}/confusion": wandb.Table(dataframe=confusions(predictions))})


def log_checkpoint(run: Any, best: Path, result: Mapping[str, Any]) -> None:
    """Uploads the best validated state as the run's model. It is read where it lies: no copy is made for W&B."""
    artifact = wandb.Artifact(f"model-{run.id}", "model", metadata={key: result[key] for key in OF_MODEL})
    artifact.add_file(str(best), best.name, skip_cache=True, policy="immutable")
    run.log_artifact(artifact, aliases=["best", "latest"])


def log_result(
    run: Any, result: Mapping[str, Any], figures: Sequence[tuple[int, float, Figure]], publish: bool
) -> None:
    """Writes a result into a W&B run: its summary, and some test tasks as a table and as pictures.

    Args:
        run: the W&B run. An offline one may be synced later, so it gets no more than an online one.
        result: what `result.json` holds; without a mean (no test was made) no score is written.
        figures: number, score and picture of test tasks, from `pictures.test_figures`.
        publish: whether pictures of data sets that are not ours may go there too.
    """
    for key in SUMMARY:
        run.summary[key] = result.get(key)
    for name, value in result.get("interpretability", {}).items():
        run.summary[f"findings/{name}"] = value
    if result.get("mean") is not None:
        log_test(run, "test", result)
    if figures and (publish or result["data"] in OURS):
        table = wandb.Table(columns=["task", "score", "picture"])
        for task, score, figure in figures:
            table.add_data(task, score, wandb.Image(as_image(figure)))
        pictures = [wandb.Image(as_image(figure), caption=f"test task {task}") for task, _, figure in figures]
        run.log({"test/episodes": table, "test/pictures": pictures})
