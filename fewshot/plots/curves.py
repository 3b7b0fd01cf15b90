"""A run's learning curve, from its `metrics.csv`."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from fewshot.plots.episodes import BLUE, ORANGE

COLOURS = {"train": ORANGE, "val": BLUE}


def read_curves(metrics: Path) -> Any:
    """A data frame of what was logged: a column a metric, by the number of training tasks seen."""
    import pandas as pd  # half a second, when a run is over

    return pd.read_csv(metrics).pivot_table(index="tasks", columns="metric", values="value", aggfunc="last")


def by_tasks(axes: Axes) -> None:
    """An axis of training tasks, as 20k and 40k, which do not run into each other."""
    axes.set_xlabel("training tasks", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def learning_curve(metrics: Path, title: str) -> Figure:
    """The loss, and the accuracy where there is one, of training and validation against the training tasks seen."""
    curves = read_curves(metrics)
    scores = ["loss", "accuracy"] if "val/accuracy" in curves else ["loss"]
    figure = Figure(figsize=(4 * len(scores), 2.8), layout="constrained", facecolor="white")
    for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        for split, colour in COLOURS.items():
            if (name := f"{split}/{score}") in curves:  # a short run logs no training
                shown = curves[name].dropna()
                style = "o-" if len(shown) < 60 else "-"
                axes.plot(shown.index, shown, style, color=colour, ms=3, lw=1.2, label=name)
        axes.set_title(score, fontsize=9, loc="left")
        axes.set_xlabel("training tasks", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure
