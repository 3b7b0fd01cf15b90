"""What Weights & Biases keeps of a test: the score with both ends of its interval, and test tasks as pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import wandb
from matplotlib.figure import Figure

NOT_OURS = ("mini", "cub", "cub50", "folder")  # photographs that are not ours to publish
SUMMARY = (
    "status",
    "best_step",
    "best_validation",
    "parameters",
    "train_tasks",
    "tasks_per_second",
    "peak_memory_bytes",
    "test_queries",
    "tasks",
)


def log_result(
    run: Any, result: Mapping[str, Any], figures: Sequence[tuple[int, float, Figure]], publish: bool
) -> None:
    """Writes a result into a W&B run: summary, and a table of test tasks (task, score, picture).

    Pictures of data sets that are not ours to publish are left out unless `publish`.
    """
    for key in SUMMARY:
        run.summary[key] = result.get(key)
    if result.get("mean") is not None:
        metric, mean, ci95 = result["metric"], result["mean"], result["ci95"]
        run.summary[f"test/{metric}"] = mean
        run.summary["test/ci95_low"], run.summary["test/ci95_high"] = mean - ci95, mean + ci95
    if figures and (publish or result["data"] not in NOT_OURS):
        table = wandb.Table(columns=["task", "score", "picture"])
        for task, score, figure in figures:
            table.add_data(task, score, wandb.Image(figure))
        run.log({"test/tasks": table})
        run.log({f"test/task {task}": wandb.Image(figure) for task, _, figure in figures})
