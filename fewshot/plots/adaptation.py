"""Pictures of what happens inside a task: the prediction after every pass, and the weights before and after."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.sine import X_RANGE
from fewshot.methods.base import MetaLearner
from fewshot.methods.oplstm import OPLSTM
from fewshot.plots.episodes import (
    GREY,
    GRID,
    INK,
    ORANGE,
    draw_test,
    predict,
    save_figure,
    test_figures,
    waves,
)


def draw_all(learner: MetaLearner, datamodule: EpisodicDataModule, folder: Path, title: str) -> list[Path]:
    """Saves every picture that fits the learner and its data into `folder`; returns the paths of the PNGs."""
    figures = {
        f"test_task_{task}": figure for task, _, figure in test_figures(learner, datamodule, title=title)
    }
    if learner.steps_setting and learner.task.regression:
        figures["passes"] = passes_figure(learner, datamodule, title)
    if isinstance(learner, OPLSTM):
        figures["weights"] = weights_figure(learner, datamodule, title)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return [folder / f"{name}.png" for name in figures]


@contextmanager
def inner_steps(learner: MetaLearner, steps: int) -> Iterator[None]:
    """Predictions within take `steps` passes over the support set, or inner steps."""
    assert learner.steps_setting
    usual = getattr(learner, learner.steps_setting)
    setattr(learner, learner.steps_setting, steps)
    try:
        yield
    finally:
        setattr(learner, learner.steps_setting, usual)


def passes_figure(
    learner: MetaLearner, datamodule: EpisodicDataModule, title: str = "", task: int = 0
) -> Figure:
    """The wave predicted for a test task after 0, 1, ..., T passes over its support set."""
    episode = draw_test(learner, datamodule, [task], queries=50)
    grid = torch.linspace(*X_RANGE, GRID).to(episode.query_x)[None, :, None]
    last = getattr(learner, str(learner.steps_setting))
    figure = Figure(figsize=(7.2, 3.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.plot(
        grid.flatten().cpu(),
        waves(episode.query_x, episode.query_y, grid).flatten().cpu(),
        color=GREY,
        lw=4,
        label="true wave",
    )
    colours = colormaps["viridis_r"].resampled(last + 1)
    for steps in range(last + 1):
        with inner_steps(learner, steps):
            predicted = predict(learner, episode.support_x, episode.support_y, grid)
        axes.plot(grid.flatten().cpu(), predicted.flatten().float().cpu(), color=colours(steps), lw=1.4)
    support = [x.flatten().cpu() for x in (episode.support_x, episode.support_y)]
    axes.plot(*support, "o", color=ORANGE, mec="white", label="support")
    what = str(learner.steps_setting).removeprefix("eval_")  # passes over the support set, or inner steps
    axes.set_title(
        f"test task {task}: as predicted after 0 to {last} {what}", loc="left", fontsize=10, color=INK
    )
    figure.suptitle(title, fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(*X_RANGE)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    scale = ScalarMappable(BoundaryNorm(np.arange(last + 2) - 0.5, last + 1), colours)
    ticks = sorted({0, last} | set(range(0, last - 1, max(1, (last + 1) // 5))))
    figure.colorbar(scale, ax=axes, label=what, ticks=ticks)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    return figure


def weights_figure(learner: OPLSTM, datamodule: EpisodicDataModule, title: str = "", task: int = 0) -> Figure:
    """OP-LSTM's output layer for a test task: H_0, H_T, and the change between them."""
    queries = datamodule.streams["test"].queries
    episode = draw_test(learner, datamodule, [task], queries)
    training = learner.training
    learner.eval()
    with torch.no_grad():
        _, initial, final = (
            x[0].detach().float().cpu().numpy()
            for x in learner.output_layer(episode.support_x, episode.support_y)
        )
    learner.train(training)
    matrices = {"H_0": initial, "H_T": final, "H_T - H_0": final - initial}
    figure = Figure(figsize=(8, 0.5 + 3 * 1.1), layout="constrained", facecolor="white")
    panels: Any = figure.subplots(3, 1)
    bound = (
        float(max(abs(matrix).max() for matrix in matrices.values())) or 1.0
    )  # one scale, to compare them by eye
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(
            matrix, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest"
        )
        axes.set_title(f"{name} of the output layer, test task {task}", fontsize=9, loc="left", color=INK)
        axes.set_ylabel("output", fontsize=8)
        axes.set_yticks(range(len(matrix)))
        figure.colorbar(image, ax=axes, shrink=0.9).ax.tick_params(labelsize=7)
    panels[-1].set_xlabel("input", fontsize=8)
    figure.suptitle(title, fontsize=9, color=INK)
    return figure
