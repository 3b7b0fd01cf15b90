"""Figures of test tasks: waves, or support set, queries and predicted classes; OP-LSTM's weights."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.utils import make_grid

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.sine import X_RANGE, SineSource
from fewshot.episodes import Episode
from fewshot.files import atomic_open
from fewshot.methods.base import MetaLearner
from fewshot.methods.oplstm import OPLSTM

BLUE, ORANGE = "#0072b2", "#d55e00"  # distinct for the colour-blind too
DPI = 300  # of saved figures
MOST = 8  # support images and queries of a class that are shown
POINTS = 400  # of a wave
# Decorates functions that draw or save figures, which do not use pyplot, so that none stays in memory.
STYLE: dict[Any, Any] = {"font.size": 8, "figure.constrained_layout.use": True, "axes.titlelocation": "left"}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "figure.dpi": 120}
styled = rc_context(STYLE | {"pdf.fonttype": 42})  # TrueType, which journals ask for


@torch.no_grad()
def predicted(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int], queries: int | None = None
) -> tuple[Episode, Tensor]:
    """Some test tasks, B = len(tasks), on the learner's device, and its predictions in evaluation mode."""
    episode = datamodule.episode("test", tasks, queries)
    dtype: Any = learner.dtype
    episode = Episode(*(x.to(learner.device, dtype if x.is_floating_point() else None) for x in episode))
    return episode, learner.eval().predict(episode)


def task_figures(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int] = (0, 1, 2, 3), title: str = ""
) -> list[tuple[int, float, Figure]]:
    """Number, score of these predictions, and figure of some test tasks: of images, and of curves."""
    shape, regression = learner.task.input_shape, learner.task.regression
    is_curve, is_image = shape == (1,) and learner.task.outputs == 1, len(shape) == 3 and shape[0] in (1, 3)
    if not (is_curve if regression else is_image):
        return []
    episode, predictions = predicted(learner, datamodule, tasks)
    scores = learner.scores(predictions, episode.query_y).tolist()
    if regression:
        figures = [wave_figure(learner, datamodule, task, title) for task in tasks]
    else:
        names = datamodule.source.class_names("test", np.array(tasks))
        figures = [episode_figure(episode, predictions, n, title, names[n]) for n in range(len(tasks))]
    return list(zip(tasks, scores, figures, strict=True))


@styled
def wave_figure(learner: MetaLearner, datamodule: EpisodicDataModule, task: int, title: str) -> Figure:
    """The true curve of a test task, its support points and the predicted curve."""
    is_wave = isinstance(datamodule.source, SineSource)
    episode, predictions = predicted(learner, datamodule, [task], POINTS if is_wave else None)
    [error] = learner.scores(predictions, episode.query_y)
    support_x, support_y, x, y, wave = (v[0].flatten().float().cpu() for v in (*episode[:4], predictions))
    order = x.argsort()
    figure = Figure(figsize=(4.3, 2.7))
    axes = figure.subplots()
    axes.plot(x[order], y[order], color="silver", lw=3, label="true")
    axes.plot(x[order], wave[order], color=BLUE, lw=1.6, label="predicted")
    axes.plot(support_x, support_y, "o", color=ORANGE, mec="white", label="support")
    axes.set(xlim=X_RANGE if is_wave else None, title=f"test task {task}: mse {error:.4f}")
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def episode_figure(
    episode: Episode, predictions: Tensor, number: int, title: str = "", names: Sequence[str] = ()
) -> Figure:
    """Task `number` of a batch of image tasks, given predictions (B, Q, ways): a row per class.

    A query's frame is blue if its class is predicted, otherwise orange with the predicted class in a corner.
    """
    ways, side = predictions.shape[2], episode.support_x.shape[-1] + 2
    support_x, support_y, query_x, query_y = (x[number].cpu() for x in episode[:4])
    predicted = predictions[number].argmax(-1).cpu()
    low, high = support_x.min().clamp(max=0), support_x.max().clamp(min=1)  # arrays are standardised
    support_x, query_x = ((x.float() - low) / (high - low) for x in (support_x, query_x))
    gap, tiles = torch.ones_like(support_x[:1]), []
    for label in range(ways):
        tiles += [support_x[support_y == label][:MOST], gap, query_x[query_y == label][:MOST]]
    shots, columns = len(tiles[0]), sum(map(len, tiles[:3]))
    grid = make_grid(torch.cat(tiles).clamp(0, 1), columns, pad_value=1)
    figure = Figure(figsize=(0.6 * columns + 2, 0.6 * ways + 0.9))
    figure.suptitle(title)
    axes = figure.subplots()
    axes.imshow(grid.permute(1, 2, 0).numpy())
    for label in range(ways):
        for column, chosen in enumerate(predicted[query_y == label][:MOST].tolist(), shots + 1):
            corner, colour = (column * side, label * side), BLUE if chosen == label else ORANGE
            axes.add_patch(Rectangle(corner, side, side, fill=False, ec=colour, lw=2))
            if chosen != label:
                axes.text(*corner, str(chosen), va="top", fontsize=7, color="white", backgroundcolor=ORANGE)
    rows = [f"{displayable(name)}  {label}" for label, name in enumerate(names or [""] * ways)]
    axes.set_yticks((np.arange(ways) + 0.5) * side, rows, parse_math=False)
    axes.set_xticks([shots / 2 * side, (shots + 1 + columns) / 2 * side], ["support", "queries"])
    axes.spines[:].set_visible(False)
    score = 100 * (predicted == query_y).double().mean()
    axes.set_title(f"test task {episode.tasks[number]}: {score:.1f}% of {len(query_y)} queries right")
    return figure


def displayable(name: str) -> str:
    """A class name in at most three lines."""
    return fill(name.replace("_", " "), 19, max_lines=3, placeholder="…")


@styled
@torch.no_grad()
def weights_figure(learner: OPLSTM, datamodule: EpisodicDataModule, title: str = "") -> Figure:
    """OP-LSTM's output layer for test task 0: H_0, H_T, and the change between them, on one colour scale."""
    episode, _ = predicted(learner, datamodule, [0])
    _, *weights = learner.output_layer(episode.support_x, episode.support_y)
    initial, final = (weight[0].float().cpu().numpy() for weight in weights)
    matrices = {"H_0": initial, "H_T": final, "H_T - H_0": final - initial}
    bound = max(np.abs(matrix).max() for matrix in matrices.values())
    figure = Figure(figsize=(8, 3.8))
    figure.suptitle(f"{title}: OP-LSTM's output layer, test task 0")
    panels = figure.subplots(3, 1, sharex=True)
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(matrix, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
        axes.set(title=name, ylabel="output", xlabel="input")
    figure.colorbar(image, ax=panels)
    return figure


@styled
def save_figure(figure: Figure, path: Path) -> None:
    """Writes `path`.png and `path`.pdf in print quality; a failure leaves earlier files as they were."""
    for ending in ("png", "pdf"):
        with atomic_open(path.with_name(f"{path.name}.{ending}"), "wb") as file:
            figure.savefig(file, format=ending, dpi=DPI)
