"""Pictures of test tasks: true and predicted waves, or support set, queries and predicted classes."""

from collections.abc import Sequence
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

BLUE, ORANGE, INK, GREY = "#0072b2", "#d55e00", "#222222", "#8c8c8c"  # told apart by the colour-blind too
FONT = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
MOST = 8  # support images and queries of a class that are shown
GRID, CELL, GAP = (
    400,
    0.62,
    0.35,
)  # points of a wave; inches an image takes; images between support and queries


def predict(learner: MetaLearner, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """The learner's predictions in evaluation mode, without gradients; it trains afterwards if it did before."""
    training = learner.training
    learner.eval()
    try:
        with torch.no_grad():
            return learner(support_x, support_y, query_x)
    finally:
        learner.train(training)


def draw_test(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int], queries: int
) -> Episode:
    """Some test tasks, B = len(tasks), on the learner's device."""
    episode = datamodule.episode("test", tasks, queries)
    there = (x.to(learner.device) for x in episode)
    return Episode(
        *(x.to(learner.dtype) if x.is_floating_point() else x for x in there)
    )  # as Lightning would


def test_figures(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int] = (0, 1, 2, 3), title: str = ""
) -> list[tuple[int, float, Figure]]:
    """Number, score of these predictions, and picture of some test tasks."""
    episode = draw_test(learner, datamodule, tasks, datamodule.streams["test"].queries)
    predictions = predict(learner, episode.support_x, episode.support_y, episode.query_x)
    scores = learner.scores(predictions, episode.query_y).tolist()
    if learner.task.regression:
        figures = [wave_figure(learner, datamodule, [task], title) for task in tasks]
    else:
        names = datamodule.class_names("test", tasks)
        figures = [episode_figure(episode, predictions, n, title, names[n]) for n in range(len(tasks))]
    return list(zip(tasks, scores, figures, strict=True))


def wave_figure(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int] = (0, 1, 2, 3), title: str = ""
) -> Figure:
    """A panel a test task of sine: the true wave, the support points and the wave the learner predicts from them."""
    episode = draw_test(learner, datamodule, tasks, queries=50)
    grid = torch.linspace(*X_RANGE, GRID).to(episode.query_x).expand(len(tasks), -1)[..., None]
    predicted = predict(learner, episode.support_x, episode.support_y, grid)
    true = waves(episode.query_x, episode.query_y, grid)
    errors = learner.scores(predicted, true).tolist()
    shown = [x.float().cpu().numpy() for x in (grid, true, predicted, episode.support_x, episode.support_y)]
    rows, columns = -(-len(tasks) // 2), min(2, len(tasks))
    figure = Figure(figsize=(4.3 * columns, 2.3 * rows + 0.4), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, task, error, x, y, guess, support_x, support_y in zip(
        panels, tasks, errors, *shown, strict=False
    ):
        axes.plot(x, y, color=GREY, lw=3, alpha=0.6, label="true wave")
        axes.plot(x, guess, color=BLUE, lw=1.6, label="predicted")
        axes.plot(support_x, support_y, "o", color=ORANGE, ms=6, mec="white", mew=0.8, label="support")
        axes.set_title(f"test task {task}: mse {error:.4f} over the range", fontsize=9, loc="left", color=INK)
        axes.set_xlim(*X_RANGE)
        axes.tick_params(labelsize=8, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=9, color=INK)
    figure.legend(handles=panels[0].lines, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def waves(x: Tensor, y: Tensor, at_x: Tensor) -> Tensor:
    """The sine waves through (x, y), (B, Q, 1), at `at_x` (B, G, 1): exact, as A sin(x ± p) = a sin(x) + b cos(x)."""
    basis, at_basis = (torch.cat([v.sin(), v.cos()], -1) for v in (x.cpu().double(), at_x.cpu().double()))
    return (at_basis @ torch.linalg.lstsq(basis, y.cpu().double()).solution).to(at_x.dtype).to(at_x.device)


def episode_figure(
    episode: Episode, predictions: Tensor, number: int, title: str = "", names: Sequence[str] = ()
) -> Figure:
    """Task `number` of a batch of image tasks, given predictions (B, Q, ways): a row a class, support then queries.

    `names` are the classes', by label. A query's frame is blue where the class is right, and orange with the predicted
    class where it is wrong.
    """
    ways, labels, chosen = predictions.shape[2], episode.query_y[number], predictions[number].argmax(-1)
    right = chosen == labels
    support, queries = (
        [(y[number] == label).nonzero().flatten()[:MOST].tolist() for label in range(ways)]
        for y in (episode.support_y, episode.query_y)
    )
    shots, asked = max(map(len, support)), max(map(len, queries))
    span, left, top = (
        max(shots + GAP + asked, 4.2),
        2.3 if names else 0.5,
        1.35 if title else 0.95,
    )  # room for texts
    figure = Figure(figsize=(CELL * (span + left + 0.2), CELL * (ways + top + 0.2)), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-left, span + 0.2), ylim=(ways + 0.2, -top))
    axes.axis("off")
    # mostly black grey images are ink drawn bright: shown as dark ink on paper
    grey = "gray_r" if float(episode.support_x[number].median()) < 0.1 else "gray"
    for label in range(ways):
        axes.text(-0.12, label + 0.5, str(label), ha="right", va="center", fontsize=10, color=INK)
        if names:
            name = fill(shown_by_font(names[label].replace("_", " ")), 19, max_lines=3, placeholder="…")
            axes.text(
                -0.5, label + 0.5, name, ha="right", va="center", fontsize=7, color=INK, parse_math=False
            )
        for column, index in enumerate(support[label]):
            show(axes, episode.support_x[number, index], grey, (column, label), GREY)
        for column, index in enumerate(queries[label]):
            at, wrong = (shots + GAP + column, label), "" if right[index] else str(int(chosen[index]))
            show(axes, episode.query_x[number, index], grey, at, ORANGE if wrong else BLUE, wrong)
    few = f", {asked} a class shown" if len(labels) > sum(map(len, queries)) else ""
    score = f"test task {episode.tasks[number]}: {100 * right.double().mean():.1f}% of {len(labels)} queries right{few}"
    heads = ((0, -0.6, score, 9), (0, -0.16, "support", 8), (shots + GAP, -0.16, "queries", 8))
    for x, y, text, size in (*heads, (0.15 - left, -1.05, title, 9)):
        axes.text(x, y, text, fontsize=size, color=INK, va="center")
    return figure


def show(axes: Axes, image: Tensor, grey: str, at: tuple[float, int], colour: str, mark: str = "") -> None:
    """One image (C, H, W), RGB or with colour map `grey`, in a frame in the cell `at`, with `mark` in its corner."""
    x, y = at
    pixels = image.float().clamp(0, 1).cpu().numpy()
    picture = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)
    axes.imshow(
        picture, cmap=grey, vmin=0, vmax=1, extent=(x + 0.05, x + 0.95, y + 0.95, y + 0.05), aspect="auto"
    )
    axes.add_patch(
        Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fill=False, ec=colour, lw=0.7 if colour == GREY else 2)
    )
    if mark:
        tag = {"boxstyle": "square,pad=0.2", "facecolor": colour, "edgecolor": "none"}
        axes.text(
            x + 0.89,
            y + 0.87,
            mark,
            ha="right",
            va="bottom",
            fontsize=7,
            weight="bold",
            color="white",
            bbox=tag,
        )


def as_image(figure: Figure, dpi: int = 120) -> Image.Image:
    """The figure as pixels, RGB."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)  # no screen, no pyplot, no state left behind
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def shown_by_font(text: str) -> str:
    """The text, with a box for what matplotlib's font lacks."""
    return "".join(c if c.isspace() or FONT.get_char_index(ord(c)) else "□" for c in text)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes `path`.png and `path`.pdf, in print quality, each whole or not at all."""
    with atomic_open(path.with_name(f"{path.name}.png"), "wb") as file:
        as_image(figure, dpi=300).save(file, "PNG", dpi=(300, 300))
    with (
        atomic_open(path.with_name(f"{path.name}.pdf"), "wb") as file,
        rc_context({"pdf.fonttype": 42}),
    ):  # as journals ask
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})
