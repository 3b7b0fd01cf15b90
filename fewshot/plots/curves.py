"""A run's learning curve, from its `metrics.csv`."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from fewshot.plots.episodes import BLUE, ORANGE, styled


def read_curves(metrics: Path) -> pd.DataFrame:
    """A data frame of what was logged: a column per metric, indexed by the number of training tasks seen."""
    return pd.read_csv(metrics).pivot_table(index="tasks", columns="metric", values="value", aggfunc="last")


def by_tasks(axes: Axes) -> None:
    """Labels the x axis with training tasks, as 20k and 40k."""
    axes.set_xlabel("training tasks", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


@styled
def learning_curve(metrics: Path, title: str) -> Figure:
    """Loss, and accuracy for classification, of training and validation against the training tasks seen."""
    curves = read_curves(metrics)
    scores = ["loss", "accuracy"] if "val/accuracy" in curves else ["loss"]
    figure = Figure(figsize=(4 * len(scores), 2.8))
    for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        for split, colour in (("train", ORANGE), ("val", BLUE)):
            name = f"{split}/{score}"
            if name in curves:  # a short run logs no training loss
                curve = curves[name].dropna()
                style = "o-" if len(curve) < 60 else "-"
                axes.plot(curve.index, curve, style, color=colour, ms=3, lw=1.2, label=name)
                axes.legend()
        axes.set_title(score)
        by_tasks(axes)
    figure.suptitle(title)
    return figure
