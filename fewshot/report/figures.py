"""A study's figures: scores beside the paper's, scores by shots, and validation curves, with bands over seeds."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig

from fewshot.options import as_told
from fewshot.plots.curves import by_tasks, read_curves
from fewshot.plots.episodes import INK
from fewshot.plots.similarity import similarity_figure
from fewshot.report.summary import Summary
from fewshot.results.paper import FIGURE_6

Logs = Mapping[str, pd.DataFrame | None]
MEASURES = {"validation": ("val/accuracy", "val/mse"), "training loss": ("train/loss",)}  # as they are logged
COLOURS = [colormaps["tab10"](place) for place in range(10)]


def plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def headline(figure: Figure, text: str) -> None:
    """Above all panels, in lines of the figure's width: a narrowed study has a long name."""
    figure.suptitle(fill(text, int(12 * figure.get_figwidth())), fontsize=10)


def unit(runs: pd.DataFrame) -> str:
    return "mean squared error" if "mse" in set(runs["metric"].dropna()) else "accuracy, %"


def three_across(
    count: int, each: tuple[float, float], more: tuple[float, float], sharey: bool = False
) -> tuple[Figure, Any]:
    """`count` panels, three a row, of a size `each` and `more` around them, in inches; wide enough for a title."""
    across, down = min(count, 3), -(-count // 3)
    size = (max(each[0] * across + more[0], 5.5), each[1] * down + more[1])
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(down, across, squeeze=False, sharey=sharey).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def scores(runs: pd.DataFrame, table: Mapping[str, Mapping[str, Summary]], title: str) -> Figure | None:
    """A panel a column: ours with the interval over tasks, the paper's hollow."""
    columns = list(dict.fromkeys(where for row in table.values() for where in row))
    if not any(cell.seeds for row in table.values() for cell in row.values()):
        return None
    figure, panels = three_across(len(columns), (2.6, 0.45 * len(table) + 0.9), (1, 0.4), sharey=True)
    for axes, where in zip(panels, columns, strict=False):
        for place, row in enumerate(table.values()):
            cell = row.get(where)
            if cell is None:
                continue
            if cell.seeds:
                axes.errorbar(
                    cell.mean, place, xerr=cell.of_tasks, fmt="o", color=COLOURS[place % 10], ms=5, capsize=2
                )
            if cell.paper is not None:
                axes.errorbar(
                    cell.paper,
                    place + 0.22,
                    xerr=cell.paper_ci95 or 0,
                    fmt="o",
                    color=INK,
                    mfc="white",
                    ms=4,
                    lw=0.8,
                )
        axes.set_yticks(range(len(table)), list(table), fontsize=8)
        axes.invert_yaxis() if not axes.yaxis_inverted() else None
        axes.set_title(where, fontsize=9, loc="left")
        axes.set_xlabel(unit(runs), fontsize=8)
        plain(axes)
    headline(figure, f"{title}: ours with 95% over tasks, hollow the paper's")
    return figure


def by_shots(runs: pd.DataFrame, table: Mapping[str, Mapping[str, Summary]], title: str) -> Figure | None:
    """A line a row: the mean by the number of shots, the band over seeds, the paper's dashed; of one data set."""
    own = runs[runs["data"] == runs["trained_on"]]
    if runs["shots"].nunique() < 4 or runs["scores"].isna().all() or own["data"].nunique() > 1:
        return None
    figure = Figure(figsize=(5, 3.4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for number, (name, row) in enumerate(own.groupby("name", sort=False)):
        colour = COLOURS[number % len(COLOURS)]
        places = row.drop_duplicates("shots").sort_values("shots")
        shots, cells = places["shots"].to_numpy(), [table[str(name)][where] for where in places["column"]]
        means = np.array([cell.mean for cell in cells])
        widths = np.array([np.nan if cell.of_seeds is None else cell.of_seeds for cell in cells])
        axes.plot(shots, means, "o-", color=colour, ms=4, label=name)
        axes.fill_between(shots, means - widths, means + widths, color=colour, alpha=0.2, lw=0)
        if any(cell.paper is not None for cell in cells):
            published = [np.nan if cell.paper is None else cell.paper for cell in cells]
            axes.plot(shots, published, "--", color=colour, lw=1, label=f"{name}, paper")
    axes.set_xlabel("shots", fontsize=8)
    axes.set_ylabel(unit(runs), fontsize=8)
    if "mse" in set(own["metric"]):
        axes.set_ylim(bottom=0)  # which no error is below, as the band of three seeds may be
    axes.legend(frameon=False, fontsize=7)
    plain(axes)
    headline(figure, f"{title}: bands are 95% over seeds")
    return figure


def learning(runs: pd.DataFrame, logs: Logs, measure: str, title: str, each: bool = False) -> Figure | None:
    """A measure of MEASURES against training tasks seen, a panel a column: the seeds' mean and range, or `each` run."""
    cells = runs[(runs["data"] == runs["trained_on"]) & runs["scores"].notna()]
    columns = list(dict.fromkeys(zip(cells["data"], cells["shots"], strict=True)))
    if not columns:
        return None
    figure, panels = three_across(len(columns), (3.4, 2.6), (0, 0.5))
    names = list(dict.fromkeys(cells["name"]))
    for axes, (data, shots) in zip(panels, columns, strict=False):
        for name, of_row in cells[(cells["data"] == data) & (cells["shots"] == shots)].groupby(
            "name", sort=False
        ):
            kept = [
                curve for folder in of_row["folder"] if (curve := curve_of(logs[folder], measure)) is not None
            ]
            if not kept:
                continue
            curves = pd.concat(kept, axis=1).sort_index()
            colour = COLOURS[names.index(str(name)) % 10]
            if each:
                axes.plot(curves.index, curves.to_numpy(), color=colour, lw=0.9)
            else:
                axes.plot(curves.index, curves.mean(axis=1), color=colour, lw=1.2)
                axes.fill_between(
                    curves.index, curves.min(axis=1), curves.max(axis=1), color=colour, alpha=0.2, lw=0
                )
        if "mse" in set(cells["metric"]):
            axes.set_yscale("log")
        axes.set_title(f"{data} {shots}-shot", fontsize=9, loc="left")
        by_tasks(axes)
        plain(axes)
    if not any(axes.lines for axes in panels):
        return None
    panels[0].set_ylabel(unit(cells) if measure == "validation" else "loss", fontsize=8)
    for place, name in enumerate(names):
        panels[0].plot([], [], color=COLOURS[place % 10], label=name)
    letters = 20 * figure.get_figwidth()  # in a line of the legend; a sample of a line takes 8
    side_by_side = max(int(letters / (max(map(len, names)) + 8)), 1)
    figure.legend(loc="outside lower center", ncols=side_by_side, frameon=False, fontsize=7)
    what = "every run" if each else "the seeds' mean and range"
    headline(figure, f"{title}: {measure}, {what}")
    return figure


def logs_of(runs: pd.DataFrame) -> Logs:
    """What each run with a score logged, by its folder."""
    return {folder: curves_of(folder) for folder in runs.loc[runs["scores"].notna(), "folder"].unique()}


def curve_of(curves: pd.DataFrame | None, measure: str) -> pd.Series | None:
    """A run's measure by training tasks seen; None where it has none. A loss of training is a mean of neighbours."""
    if curves is None or not (names := [name for name in MEASURES[measure] if name in curves]):
        return None
    curve = curves[names[0]].dropna()
    return curve.rolling(len(curve) // 30 + 1, min_periods=1).mean() if measure == "training loss" else curve


def curves_of(folder: str) -> pd.DataFrame | None:
    """What a run logged, by training tasks seen; None where its log is not there or torn."""
    try:
        curves = read_curves(Path(folder) / "metrics.csv").apply(pd.to_numeric)
        return curves.set_axis(pd.to_numeric(curves.index))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def similarity(
    runs: pd.DataFrame, logs: Logs, cfg: DictConfig, title: str
) -> tuple[Figure, pd.DataFrame] | None:
    """Figure 6 and its values in numbers, from the runs that measured it; the paper's where the protocol is.

    None where they differ in more than seeds: there is no mean over such.
    """
    definition = cfg.trainer.similarity
    own = runs[runs["data"] == runs["trained_on"]]
    if definition == "none" or len(own[["name", "column"]].drop_duplicates()) > 1:
        return None
    name, tasks_between = (
        f"similarity_{definition}",
        cfg.trainer.val_check_interval * cfg.method.meta_batch_size,
    )
    curves = [frame for frame in logs.values() if frame is not None and f"{name}/cosine_gradient" in frame]
    if not curves:
        return None
    means = pd.concat(curves).groupby(level=0).mean()
    if set(zip(runs["data"], runs["shots"], strict=True)) != {("mini", 1)} or runs["paper"].isna().any():
        return similarity_figure(curves, definition, title), pd.DataFrame()
    paper = {
        measure: {n * tasks_between: v for n, v in values.items()} for measure, values in FIGURE_6.items()
    }
    lines = [
        {
            "": measure.replace("_", " to "),
            "training tasks": f"{tasks:,}",
            "ours": f"{ours:.3g}",
            "paper": str(value),
        }
        for measure, values in paper.items()
        for tasks, value in values.items()
        if (ours := means[f"{name}/{measure}"].get(tasks)) is not None
    ]
    return similarity_figure(curves, definition, title, paper), pd.DataFrame(lines)


def trials(frame: pd.DataFrame, settings: list[str], metric: str, title: str) -> Figure:
    """A search's validation score against every hyperparameter."""
    figure = Figure(figsize=(2.6 * len(settings), 2.6), layout="constrained", facecolor="white")
    for axes, name in zip(
        figure.subplots(1, len(settings), squeeze=False, sharey=True)[0], settings, strict=True
    ):
        values = frame[name]
        if pd.api.types.is_numeric_dtype(values):
            axes.plot(values.astype(float), frame["best_validation"], "o", color=COLOURS[0], ms=4)
            if values.min() > 0 and values.max() / values.min() > 50:
                axes.set_xscale("log")
        else:
            values = values.map(as_told)
            order = sorted(set(values))
            axes.plot(values.map(order.index), frame["best_validation"], "o", color=COLOURS[0], ms=4)
            axes.set_xticks(range(len(order)), order, rotation=60, ha="right", fontsize=6)
        if metric == "mse":
            axes.set_yscale("log")
        axes.set_xlabel(name, fontsize=8)
        plain(axes)
    headline(figure, f"{title}: best validation {metric} of every trial")
    return figure
