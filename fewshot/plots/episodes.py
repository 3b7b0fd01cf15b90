"""Figures of test tasks: true and predicted waves, or support set, queries and predicted classes."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.sine import X_RANGE
from fewshot.episodes import Episode
from fewshot.files import atomic_open
from fewshot.methods.base import MetaLearner

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c8c8c"  # distinct for the colour-blind too
DPI = 300  # of saved figures
MOST = 8  # support images and queries of a class that are shown
POINTS = 400  # of a wave
CELL = 0.62  # inches per image
# Decorates functions that draw or save figures, which do not use pyplot, so that none stays in memory.
styled = rc_context(
    {
        "font.size": 8,
        "figure.constrained_layout.use": True,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "pdf.fonttype": 42,  # TrueType, which journals ask for
    }
)


@torch.no_grad()
def predicted(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int], queries: int | None = None
) -> tuple[Episode, Tensor]:
    """Some test tasks, B = len(tasks), on the learner's device, and its predictions in evaluation mode."""
    episode = datamodule.episode("test", tasks, queries)
    like = next(learner.parameters())
    episode = Episode(*(x.to(like.device, like.dtype if x.is_floating_point() else None) for x in episode))
    return episode, learner.eval().predict(episode)


def test_figures(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int] = (0, 1, 2, 3), title: str = ""
) -> list[tuple[int, float, Figure]]:
    """Number, score of these predictions, and figure of some test tasks."""
    episode, predictions = predicted(learner, datamodule, tasks)
    scores = learner.scores(predictions, episode.query_y).tolist()
    if learner.task.regression:
        figures = [wave_figure(learner, datamodule, task, title) for task in tasks]
    else:
        names = datamodule.class_names("test", tasks)
        figures = [episode_figure(episode, predictions, n, title, names[n]) for n in range(len(tasks))]
    return list(zip(tasks, scores, figures, strict=True))


@styled
def wave_figure(
    learner: MetaLearner, datamodule: EpisodicDataModule, task: int = 0, title: str = ""
) -> Figure:
    """The true wave of a test task, its support points and the predicted wave."""
    episode, predictions = predicted(learner, datamodule, [task], POINTS)
    [error] = learner.scores(predictions, episode.query_y)
    points = (values[0].flatten().float().cpu() for values in (*episode[:4], predictions))
    support_x, support_y, x, y, wave = points
    order = x.argsort()
    figure = Figure(figsize=(4.3, 2.7))
    axes = figure.subplots()
    axes.plot(x[order], y[order], color=GREY, lw=3, alpha=0.6, label="true wave")
    axes.plot(x[order], wave[order], color=BLUE, lw=1.6, label="predicted")
    axes.plot(support_x, support_y, "o", color=ORANGE, mec="white", label="support")
    axes.set(xlim=X_RANGE, title=f"test task {task}: mse {error:.4f} over the range")
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
    ways, side = predictions.shape[2], episode.support_x.shape[-1]
    support_x, support_y, query_x, query_y = (x[number].cpu() for x in episode[:4])
    predicted = predictions[number].argmax(-1).cpu()
    if support_x.shape[1] == 1 and support_x.median() < 0.1:
        support_x, query_x = 1 - support_x, 1 - query_x  # bright ink on black becomes dark ink on paper
    tiles = []
    for label in range(ways):
        gap = torch.ones_like(support_x[:1])
        tiles += [support_x[support_y == label][:MOST], gap, query_x[query_y == label][:MOST]]
    shots, columns = len(tiles[0]), len(tiles[0]) + 1 + len(tiles[2])
    padding = max(side // 8, 1)
    cell = side + padding
    grid = make_grid(torch.cat(tiles).float().clamp(0, 1), columns, padding, pad_value=1)
    figure = Figure(figsize=(max(CELL * columns + 2, 5), CELL * ways + 0.9))
    axes = figure.subplots()
    axes.imshow(grid.permute(1, 2, 0).numpy())
    for label in range(ways):
        y = label * cell + padding / 2
        for column, chosen in enumerate(predicted[query_y == label][:MOST].tolist(), shots + 1):
            x, colour = column * cell + padding / 2, BLUE if chosen == label else ORANGE
            axes.add_patch(Rectangle((x, y), cell - 1, cell - 1, fill=False, ec=colour, lw=2))
            if chosen != label:
                axes.text(x, y, str(chosen), va="top", fontsize=7, color="white", backgroundcolor=ORANGE)
    rows = [f"{displayable(name)}  {label}" for label, name in enumerate(names or [""] * ways)]
    axes.set_yticks((np.arange(ways) + 0.5) * cell, rows, parse_math=False)
    axes.set_xticks([shots / 2 * cell, (shots + 1 + columns) / 2 * cell], ["support", "queries"])
    axes.tick_params(length=0, top=True, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    score = 100 * (predicted == query_y).double().mean()
    heading = f"test task {episode.tasks[number]}: {score:.1f}% of {len(query_y)} queries right"
    figure.suptitle(f"{title}\n{heading}".strip(), x=0.02, ha="left")
    return figure


def displayable(name: str) -> str:
    """A class name in at most three lines."""
    return fill(name.replace("_", " "), 19, max_lines=3, placeholder="…")


def as_image(figure: Figure, dpi: int = 120) -> Image.Image:
    """The figure as pixels, RGB."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


@styled
def save_figure(figure: Figure, path: Path) -> None:
    """Writes `path`.png and `path`.pdf in print quality; a failure leaves earlier files as they were."""
    for ending, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        with atomic_open(path.with_name(f"{path.name}.{ending}"), "wb") as file:
            figure.savefig(file, format=ending, dpi=DPI, metadata=metadata)
