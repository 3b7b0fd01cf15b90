"""Figures of test tasks: true and predicted waves, or support set, queries and predicted classes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.sine import X_RANGE
from fewshot.episodes import Episode
from fewshot.files import atomic_open
from fewshot.methods.base import MetaLearner

BLUE, ORANGE, INK, GREY = "#0072b2", "#d55e00", "#222222", "#8c8c8c"  # distinct for the colour-blind too
DPI = 300  # of saved figures
MOST = 8  # support images and queries of a class that are shown
POINTS = 400  # of a wave
CELL, GAP = 0.62, 0.35  # inches per image; space between support and queries, in images
FONT = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
# Decorates functions that draw or save: without pyplot, so that no figure stays in memory.
styled = rc_context(
    {
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "figure.titlesize": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "text.color": INK,
        "pdf.fonttype": 42,  # TrueType, which journals ask for
    }
)


@contextmanager
def evaluating(learner: MetaLearner) -> Iterator[None]:
    """The learner in evaluation mode, without gradients; its mode is restored afterwards."""
    training = learner.training
    learner.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        learner.train(training)


def draw_test(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int], queries: int
) -> Episode:
    """Some test tasks, B = len(tasks), on the learner's device and in its dtype."""
    episode = datamodule.episode("test", tasks, queries)
    like = next(learner.parameters())
    return Episode(*(x.to(like.device, like.dtype if x.is_floating_point() else None) for x in episode))


def test_figures(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int] = (0, 1, 2, 3), title: str = ""
) -> list[tuple[int, float, Figure]]:
    """Number, score of these predictions, and figure of some test tasks."""
    episode = draw_test(learner, datamodule, tasks, datamodule.streams["test"].queries)
    with evaluating(learner):
        predictions = learner.predict(episode)
    scores = learner.scores(predictions, episode.query_y).tolist()
    if learner.task.regression:
        figures = [wave_figure(learner, datamodule, [task], title) for task in tasks]
    else:
        names = datamodule.class_names("test", tasks)
        figures = [episode_figure(episode, predictions, n, title, names[n]) for n in range(len(tasks))]
    return list(zip(tasks, scores, figures, strict=True))


@styled
def wave_figure(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int] = (0, 1, 2, 3), title: str = ""
) -> Figure:
    """A panel for each sine task: the true wave, the support points and the predicted wave."""
    episode = draw_waves(learner, datamodule, tasks)
    with evaluating(learner):
        predicted = learner.predict(episode)
    errors = learner.scores(predicted, episode.query_y)
    support_x, support_y, x, y, predicted = (v.float().cpu() for v in (*episode[:4], predicted))
    rows, columns = -(-len(tasks) // 2), min(2, len(tasks))
    figure = Figure(figsize=(4.3 * columns, 2.3 * rows + 0.4))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for n, task in enumerate(tasks):
        panels[n].plot(x[n], y[n], color=GREY, lw=3, alpha=0.6, label="true wave")
        panels[n].plot(x[n], predicted[n], color=BLUE, lw=1.6, label="predicted")
        panels[n].plot(support_x[n], support_y[n], "o", color=ORANGE, mec="white", label="support")
        panels[n].set(xlim=X_RANGE, title=f"test task {task}: mse {errors[n]:.4f} over the range")
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    figure.suptitle(title)
    figure.legend(handles=panels[0].lines, loc="outside lower center", ncols=3)
    return figure


def draw_waves(learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int]) -> Episode:
    """Test tasks of sine with enough queries to draw the waves, in the order of x."""
    episode = draw_test(learner, datamodule, tasks, POINTS)
    order = episode.query_x.argsort(1)
    return episode._replace(
        query_x=episode.query_x.gather(1, order), query_y=episode.query_y.gather(1, order)
    )


@styled
def episode_figure(
    episode: Episode, predictions: Tensor, number: int, title: str = "", names: Sequence[str] = ()
) -> Figure:
    """Task `number` of a batch of image tasks, given predictions (B, Q, ways): a row per class.

    A query's frame is blue if its class is predicted, otherwise orange with the predicted class in a corner.
    """
    ways = predictions.shape[2]
    support_x, support_y, query_x, query_y = (x[number].cpu() for x in episode[:4])
    predicted = predictions[number].argmax(-1).cpu()
    shots, queries = min(len(support_y) // ways, MOST), min(len(query_y) // ways, MOST)
    width = shots + GAP + queries
    figure = Figure(figsize=(max(CELL * width + 2, 5), CELL * ways + 0.9))
    axes = figure.subplots()
    # mostly black grey images are bright ink: shown as dark ink on paper
    grey = "gray_r" if support_x.median() < 0.1 else "gray"
    for label in range(ways):
        for column, n in enumerate((support_y == label).nonzero().flatten()[:MOST]):
            show(axes, support_x[n], grey, column, label, GREY)
        for column, n in enumerate((query_y == label).nonzero().flatten()[:MOST]):
            chosen = int(predicted[n])
            colour, mark = (BLUE, "") if chosen == label else (ORANGE, str(chosen))
            show(axes, query_x[n], grey, shots + GAP + column, label, colour, mark)
    rows = [f"{displayable(name)}  {label}" for label, name in enumerate(names or [""] * ways)]
    axes.set_yticks(np.arange(ways) + 0.5, rows, parse_math=False)
    axes.set_xticks([shots / 2, shots + GAP + queries / 2], ["support", "queries"])
    axes.tick_params(length=0, top=True, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(0, width), ylim=(ways, 0), aspect="equal")
    score = 100 * (predicted == query_y).double().mean()
    few = f", {queries} a class shown" if queries * ways < len(query_y) else ""
    heading = f"test task {episode.tasks[number]}: {score:.1f}% of {len(query_y)} queries right{few}"
    figure.suptitle(f"{title}\n{heading}".strip(), x=0.02, ha="left")
    return figure


def show(axes: Axes, image: Tensor, grey: str, x: float, y: float, colour: str, mark: str = "") -> None:
    """One image (C, H, W), RGB or with colour map `grey`, in a frame at (x, y), with `mark` in its corner."""
    pixels = image.float().clamp(0, 1).permute(1, 2, 0).numpy()
    extent = (x + 0.05, x + 0.95, y + 0.95, y + 0.05)
    axes.imshow(pixels if len(image) == 3 else pixels.mean(-1), cmap=grey, vmin=0, vmax=1, extent=extent)
    axes.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fill=False, ec=colour, lw=2))
    if mark:
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
        axes.text(x + 0.89, y + 0.87, mark, ha="right", fontsize=7, weight="bold", color="white", bbox=box)


def displayable(name: str) -> str:
    """A class name in at most three lines, with a box for each character that matplotlib's font lacks."""
    known = [c if c.isspace() or FONT.get_char_index(ord(c)) else "□" for c in name.replace("_", " ")]
    return fill("".join(known), 19, max_lines=3, placeholder="…")


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
