"""The result of a run: drawn, logged, kept and printed. Neither a picture nor W&B can lose a score."""

import math
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import DictConfig

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import brief
from fewshot.methods import MetaLearner
from fewshot.plots.confusion import confusion_figure
from fewshot.plots.curves import learning_curve, read_curves
from fewshot.plots.episodes import save_figure, test_figures
from fewshot.plots.similarity import similarity_figure
from fewshot.results.predictions import show_predictions, write_predictions
from fewshot.results.record import show, title_of, write_json, write_scores
from fewshot.results.statistics import diagnostics
from fewshot.training.fit import Tested

Drawn = list[tuple[int, float, Figure]]  # number, score and picture of test tasks


def record(
    cfg: DictConfig,
    folder: Path,
    learner: MetaLearner,
    datamodule: EpisodicDataModule,
    description: dict[str, Any],
    tested: Tested,
) -> dict[str, Any]:
    """Keeps the result in `folder`, and returns it."""
    figures: Drawn = []
    if tested.outcome["status"] == "finished":
        write_scores(folder / "test_scores.csv", tested.scores)
        if tested.predictions is not None:
            write_predictions(folder / "predictions.csv", tested.predictions)
        try:
            figures = draw(cfg, folder, learner, datamodule, title_of(description), tested)
        except Exception as error:
            print(f"not every picture was drawn: {brief(error, 200)}", file=sys.stderr)
    metrics = interpretability(learner)
    result = description | tested.scores.summary | tested.outcome | {"interpretability": metrics}
    result["warnings"] = diagnostics(result)
    if tested.wandb is not None:
        from fewshot.training.wandb_log import log_checkpoint, log_result, log_test

        try:
            log_result(tested.wandb, result, figures, cfg.logger.pictures)
            if result["status"] == "finished":
                log_test(tested.wandb, "test", result, tested.scores, tested.predictions)
            if cfg.logger.checkpoint and result["status"] == "finished":
                log_checkpoint(tested.wandb, folder / "best.ckpt", result)
        except Exception as error:
            print(f"W&B did not take the result: {brief(error, 200)}", file=sys.stderr)
    write_json(folder / "result.json", result)
    show(result, folder)
    show_predictions(tested.predictions)
    return result


def interpretability(learner: MetaLearner) -> dict[str, float]:
    """The learner's finite interpretability metrics; an error in them does not lose the score."""
    try:
        metrics = {str(name): float(value) for name, value in learner.interpretability().items()}
    except Exception as error:
        print(f"{type(learner).__name__}.interpretability() failed: {brief(error, 200)}", file=sys.stderr)
        return {}
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def draw(
    cfg: DictConfig,
    folder: Path,
    learner: MetaLearner,
    datamodule: EpisodicDataModule,
    title: str,
    tested: Tested,
) -> Drawn:
    """Saves pictures of test tasks, the learning curve and, if it was measured, the similarities."""
    scores = dict(zip(tested.scores.tasks, tested.scores.values, strict=True))  # as precise as the test was
    figures = [
        (task, scores.get(task, score), figure)
        for task, score, figure in test_figures(learner, datamodule, title=title)
    ]
    for task, _, figure in figures:
        save_figure(figure, folder / f"test_task_{task}")
    if tested.predictions is not None and not learner.task.regression:
        save_figure(confusion_figure(tested.predictions, title), folder / "confusion")
    metrics = folder / "metrics.csv"
    if metrics.exists():
        save_figure(learning_curve(metrics, title), folder / "learning_curve")
    if (definition := cfg.trainer.similarity) != "none":
        figure = similarity_figure([read_curves(metrics)], definition, title)
        save_figure(figure, folder / f"similarity-{definition}")
    return figures
