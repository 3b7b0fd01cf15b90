"""Pictures of test tasks: predicted waves for regression; support set, queries and predictions for images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.episodes import Episode
from fewshot.methods.base import MetaLearner

RIGHT, WRONG, TRUTH = "#0072b2", "#d55e00", "#999999"  # told apart by the colour-blind too
MOST_QUERIES, MOST_SUPPORT = 8, 5  # images a class that fit a page


def test_figures(
    learner: MetaLearner, datamodule: EpisodicDataModule, tasks: Sequence[int] = (0, 1, 2, 3)
) -> list[tuple[int, float, Figure]]:
    """Task number, score and picture of some test tasks; the learner's mode is left as it was."""
    stream = datamodule.streams["test"]
    drawn = datamodule.source.draw("test", np.array(tasks), datamodule.shots, stream.queries)
    drawn = {name: tensor.to(learner.device) for name, tensor in drawn.items()}
    episode = datamodule.source.episode(drawn, datamodule.shots)
    training = learner.training
    learner.eval()
    try:
        with torch.no_grad():
            predictions = learner.predict(episode)
            scores = learner.scores(predictions, episode.query_y).tolist()
            figures = [
                wave_figure(learner, episode, row, scores[row])
                if learner.task.regression
                else episode_figure(episode, predictions, row, scores[row])
                for row in range(len(tasks))
            ]
    finally:
        learner.train(training)
    return list(zip(tasks, scores, figures, strict=True))


def wave_figure(learner: MetaLearner, episode: Episode, row: int, score: float) -> Figure:
    """The true values at the queries, the support points, and the learner's wave over the whole range of x."""
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    support_x, support_y = episode.support_x[row : row + 1], episode.support_y[row : row + 1]
    x = torch.linspace(-5, 5, 200, device=support_x.device, dtype=support_x.dtype).view(1, -1, 1)
    order = episode.query_x[row, :, 0].argsort()
    axes.plot(
        flat(episode.query_x[row][order]), flat(episode.query_y[row][order]), "o", color=TRUTH, ms=3, label="true"
    )
    axes.plot(flat(x), flat(learner(support_x, support_y, x)), color=RIGHT, label="predicted")
    axes.plot(flat(support_x), flat(support_y), "^", color=WRONG, ms=7, label="support")
    axes.set(title=f"test task {int(episode.tasks[row])}: mse {score:.4f}", xlabel="x", ylabel="y", xlim=(-5, 5))
    axes.legend(fontsize=7, loc="upper right")
    return figure


def episode_figure(episode: Episode, predictions: Tensor, row: int, score: float) -> Figure:
    """A row a class: its support images, then its queries, framed blue where predicted right and, where wrong,

    orange with the number of the class predicted.
    """
    ways = predictions.shape[2]
    support, queries = by_class(episode.support_y[row], ways), by_class(episode.query_y[row], ways)
    shots, asked = min(MOST_SUPPORT, len(support[0])), min(MOST_QUERIES, len(queries[0]))
    figure = Figure(figsize=(0.72 * (shots + asked) + 0.9, 0.72 * ways + 0.5), layout="constrained")
    grid = figure.subplots(ways, shots + asked, squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    chosen = predictions[row].argmax(-1)
    for label in range(ways):
        for column, index in enumerate(support[label][:shots]):
            panel(grid[label, column], episode.support_x[row, index], "black", "")
        grid[label, 0].set_ylabel(str(label), rotation=0, labelpad=8, va="center")
        for column, index in enumerate(queries[label][:asked]):
            found = int(chosen[index])
            right = found == label
            panel(
                grid[label, shots + column],
                episode.query_x[row, index],
                RIGHT if right else WRONG,
                "" if right else f"{found}",
            )
    grid[0, 0].set_title("support", fontsize=8, loc="left")
    grid[0, shots].set_title(f"queries, task {int(episode.tasks[row])}: {score:.0f}% right", fontsize=8, loc="left")
    return figure


def panel(axes: Any, image: Tensor, colour: str, mark: str) -> None:
    """One image (C, H, W) in [0, 1] in a coloured frame, grey ones as dark ink on white."""
    pixels = image.cpu().permute(1, 2, 0).numpy()
    axes.imshow(1 - pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=0.8 if colour == "black" else 2.2)
    if mark:
        axes.text(
            0.97, 0.03, mark, color="white", backgroundcolor=colour, fontsize=6, ha="right", transform=axes.transAxes
        )


def by_class(labels: Tensor, ways: int) -> list[list[int]]:
    """The positions of each class's examples."""
    return [(labels == label).nonzero().flatten().tolist() for label in range(ways)]


def flat(values: Tensor) -> Any:
    return values.flatten().cpu().numpy()


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png", dpi=120)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
