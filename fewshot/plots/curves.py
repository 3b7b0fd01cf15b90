"""A run's learning curve, from its `metrics.csv`, and what figures of curves share."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from fewshot.plots.episodes import BLUE, ORANGE, styled


def read_curves(metrics: Path) -> pd.DataFrame:
    """A data frame of what was logged: a column per metric, indexed by the number of training tasks seen."""
    return pd.read_csv(metrics).pivot_table(index="tasks", columns="metric", values="value", aggfunc="last")


def panels(count: int, size: tuple[float, float], title: str, **options: Any) -> tuple[Figure, list[Any]]:
    """`count` panels of a size in inches, three a row, below a title."""
    rows, columns = -(-count // 3), min(count, 3)
    figure = Figure(figsize=(max(size[0] * columns, 5), size[1] * rows + 0.5))
    figure.suptitle(title, wrap=True)
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def by_tasks(axes: Axes) -> None:
    """Labels the x axis with training tasks, as 20k and 40k."""
    axes.set_xlabel("training tasks")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


@styled
def learning_curve(metrics: Path, title: str) -> Figure:
    """Loss, and accuracy for classification, of training and validation against the training tasks seen."""
    curves = read_curves(metrics)
    scores = ["loss", "accuracy"] if "val/accuracy" in curves else ["loss"]
    figure, all_axes = panels(len(scores), (4, 2.8), title)
    for axes, score in zip(all_axes, scores, strict=True):
        for name, colour in ((f"train/{score}", ORANGE), (f"val/{score}", BLUE)):
            if name in curves:  # a short run logs no training loss
                axes.plot(curves[name].dropna(), color=colour, marker=".", ms=3, lw=1.2, label=name)
                axes.legend()
        axes.set_title(score)
        by_tasks(axes)
    return figure
