"""Figures of what happens inside a task: predictions after every pass, and weights before and after."""

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.methods.base import MetaLearner
from fewshot.methods.oplstm import OPLSTM
from fewshot.plots.episodes import (
    BLUE,
    draw_test,
    draw_waves,
    evaluating,
    save_figure,
    styled,
    test_figures,
    wave_figure,
)


def draw_all(learner: MetaLearner, datamodule: EpisodicDataModule, folder: Path, title: str) -> list[Path]:
    """Saves every figure that fits the learner and its data into `folder`; returns the paths of the PNGs."""
    tested = test_figures(learner, datamodule, title=title)
    figures = {f"test_task_{task}": figure for task, _, figure in tested}
    if learner.steps_setting and learner.task.regression:
        figures["passes"] = passes_figure(learner, datamodule, title)
    if isinstance(learner, OPLSTM):
        figures["weights"] = weights_figure(learner, datamodule, title)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return [folder / f"{name}.png" for name in figures]


def with_steps(learner: MetaLearner, steps: int) -> MetaLearner:
    """The learner with the same weights, taking `steps` passes over the support set or inner steps."""
    changed = copy(learner)
    setattr(changed, str(learner.steps_setting), steps)
    return changed


@styled
def passes_figure(
    learner: MetaLearner, datamodule: EpisodicDataModule, title: str = "", task: int = 0
) -> Figure:
    """The wave predicted for a test task after 0, 1, ..., T passes over its support set, or inner steps."""
    setting = str(learner.steps_setting)
    last, name = getattr(learner, setting), setting.removeprefix("eval_")
    figure = wave_figure(learner, datamodule, [task], title)  # the prediction after T passes
    figure.set_size_inches(7.2, 3.6)
    [axes] = figure.axes
    episode = draw_waves(learner, datamodule, [task])
    colours = LinearSegmentedColormap.from_list(name, ["gold", BLUE]).resampled(last + 1)
    for steps in range(last):
        with evaluating(learner):
            predicted = with_steps(learner, steps).predict(episode)
        x, y = episode.query_x[0].cpu(), predicted[0].float().cpu()
        axes.plot(x, y, color=colours(steps), lw=1.4, zorder=1)
    scale = ScalarMappable(BoundaryNorm(np.arange(last + 2) - 0.5, last + 1), colours)
    figure.colorbar(scale, ax=axes, label=name, ticks=np.unique(np.linspace(0, last, 6).round()))
    return figure


@styled
def weights_figure(learner: OPLSTM, datamodule: EpisodicDataModule, title: str = "", task: int = 0) -> Figure:
    """OP-LSTM's output layer for a test task: H_0, H_T, and the change between them, on one colour scale."""
    episode = draw_test(learner, datamodule, [task], datamodule.streams["test"].queries)
    with evaluating(learner):
        _, initial_BND, final_BND = learner.output_layer(episode.support_x, episode.support_y)
    initial, final = (w[0].detach().float().cpu().numpy() for w in (initial_BND, final_BND))
    matrices = {"H_0": initial, "H_T": final, "H_T - H_0": final - initial}
    bound = max(float(abs(matrix).max()) for matrix in matrices.values()) or 1.0
    figure = Figure(figsize=(8, 3.8))
    panels: Any = figure.subplots(3, 1)
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(matrix, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
        axes.set(title=f"{name} of the output layer, test task {task}", ylabel="output")
        axes.set_yticks(range(len(matrix)))
        figure.colorbar(image, ax=axes, shrink=0.9)
    panels[-1].set_xlabel("input")
    figure.suptitle(title)
    return figure
