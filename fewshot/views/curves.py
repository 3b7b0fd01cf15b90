"""A run's learning curve, from its `metrics.csv`."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fewshot.views.pictures import BLUE, ORANGE


def learning_curve(metrics: Path, title: str) -> Figure:
    """Training loss and validation score against the training tasks seen."""
    curves = pd.read_csv(metrics).pivot_table(index="tasks", columns="metric", values="value", aggfunc="last")
    figure = Figure(figsize=(8, 2.8), layout="constrained", facecolor="white")
    [validated] = [name for name in curves if name in ("val/accuracy", "val/mse")]
    for axes, name, colour in zip(figure.subplots(1, 2), ("train/loss", validated), (ORANGE, BLUE), strict=True):
        if name in curves:  # a short run logs no loss
            shown = curves[name].dropna()
            axes.plot(shown.index, shown, "o-" if len(shown) < 60 else "-", color=colour, ms=3, lw=1.2)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_xlabel("training tasks", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure
