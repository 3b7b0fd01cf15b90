"""Figures of test tasks and, of OP-LSTM, of the weights before and after a task."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.methods.base import MetaLearner
from fewshot.methods.oplstm import OPLSTM
from fewshot.plots.episodes import predicted, save_figure, styled, test_figures


def draw_all(learner: MetaLearner, datamodule: EpisodicDataModule, folder: Path, title: str) -> list[Path]:
    """Saves every figure that fits the learner into `folder`; returns the paths of the PNGs."""
    tested = test_figures(learner, datamodule, title=title)
    figures = {f"test_task_{task}": figure for task, _, figure in tested}
    if isinstance(learner, OPLSTM):
        figures["weights"] = weights_figure(learner, datamodule, title)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return [folder / f"{name}.png" for name in figures]


@styled
@torch.no_grad()
def weights_figure(learner: OPLSTM, datamodule: EpisodicDataModule, title: str = "") -> Figure:
    """OP-LSTM's output layer for test task 0: H_0, H_T, and the change between them, on one colour scale."""
    episode, _ = predicted(learner, datamodule, [0])
    _, initial_BND, final_BND = learner.output_layer(episode.support_x, episode.support_y)
    initial, final = (weights[0].float().cpu().numpy() for weights in (initial_BND, final_BND))
    matrices = {"H_0": initial, "H_T": final, "H_T - H_0": final - initial}
    bound = max(np.abs(matrix).max() for matrix in matrices.values())
    figure = Figure(figsize=(8, 3.8))
    figure.suptitle(title)
    panels = figure.subplots(3, 1, sharex=True)
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(matrix, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
        axes.set(title=f"{name} of the output layer, test task 0", ylabel="output")
    panels[-1].set_xlabel("input")
    figure.colorbar(image, ax=panels)
    return figure
