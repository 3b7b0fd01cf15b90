"""A study's figures: scores beside the paper's and by shots, learning curves, Figure 6, a search's trials."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig

from fewshot.plots.curves import by_tasks, read_curves
from fewshot.plots.episodes import INK
from fewshot.plots.similarity import similarity_figure
from fewshot.results.paper import figure_6
from fewshot.results.record import as_override

Curves = Mapping[str, pd.DataFrame]  # what each run logged by training tasks seen, by its folder
MEASURES = {"validation": ("val/accuracy", "val/mse"), "training loss": ("train/loss",)}  # as they are logged
UNITS = {"mse": "mean squared error", "accuracy": "accuracy, %"}
COLOURS = [colormaps["tab10"](place % 10) for place in range(100)]


def finish(axes: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(xlabel or axes.get_xlabel(), fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def panels(count: int, size: tuple[float, float], title: str, sharey: bool = False) -> tuple[Figure, Any]:
    """`count` panels, three a row, each of a size in inches, below a title that is wrapped to their width."""
    across, down = min(count, 3), -(-count // 3)
    width = max(size[0] * across, 5)
    figure = Figure(figsize=(width, size[1] * down + 0.5), layout="constrained", facecolor="white")
    figure.suptitle(fill(title, int(12 * width)), fontsize=10)
    axes = figure.subplots(down, across, squeeze=False, sharey=sharey).ravel()
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def scores(table: pd.DataFrame, title: str) -> Figure | None:
    """A panel a column: ours with the interval over tasks, the paper's hollow."""
    if not table["seeds"].any():
        return None
    names, columns = list(table["name"].unique()), table["column"].unique()
    size, headline = (3, 0.45 * len(names) + 0.9), f"{title}: ours with 95% over tasks, the paper's hollow"
    figure, all_axes = panels(len(columns), size, headline, sharey=True)
    for axes, column in zip(all_axes, columns, strict=True):
        for cell in table[table["column"] == column].to_dict("records"):
            place = names.index(cell["name"])
            axes.errorbar(
                cell["mean"], place, xerr=cell["ci95_tasks"], fmt="o", color=COLOURS[place], capsize=2
            )
            paper = {"xerr": cell["paper_ci95"], "fmt": "o", "color": INK, "mfc": "white", "ms": 4, "lw": 0.8}
            axes.errorbar(cell["paper"], place + 0.22, **paper)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        finish(axes, column, UNITS[table["metric"].iloc[0]])
    return figure


def by_shots(runs: pd.DataFrame, table: pd.DataFrame, title: str) -> Figure | None:
    """A line a row: the mean by the number of shots, the band over seeds, the paper's dashed."""
    own = runs[runs["data"] == runs["trained_on"]]
    if own["shots"].nunique() < 4 or own["scores"].isna().all() or own["data"].nunique() > 1:
        return None
    places = own[["name", "column", "shots"]].drop_duplicates(["name", "shots"])
    cells = places.merge(table, on=["name", "column"]).sort_values("shots")
    figure, [axes] = panels(1, (5, 2.9), f"{title}: bands are 95% over seeds")
    for name, colour in zip(own["name"].unique(), COLOURS, strict=False):
        row = cells[cells["name"] == name]
        axes.plot(row["shots"], row["mean"], "o-", color=colour, ms=4, label=name)
        band(axes, row["shots"], row["mean"] - row["ci95_seeds"], row["mean"] + row["ci95_seeds"], colour)
        if row["paper"].notna().any():
            axes.plot(row["shots"], row["paper"], "--", color=colour, lw=1, label=f"{name}, paper")
    metric = own["metric"].iloc[0]
    if metric == "mse":
        axes.set_ylim(bottom=0)  # the band of three seeds may reach below
    axes.legend(frameon=False, fontsize=7)
    finish(axes, xlabel="shots", ylabel=UNITS[metric])
    return figure


def band(axes: Axes, x: Any, low: pd.Series, high: pd.Series, colour: Any) -> None:
    axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def learning(runs: pd.DataFrame, logs: Curves, measure: str, title: str, each: bool = False) -> Figure | None:
    """One of MEASURES by training tasks, a panel per data set and shots: mean and range over seeds."""
    own = runs[runs["data"] == runs["trained_on"]]
    cells = own.assign(curve=[curve_of(logs.get(folder), measure) for folder in own["folder"]])
    cells = cells[cells["curve"].notna()]
    if cells.empty:
        return None
    groups, names, metric = (
        list(cells.groupby(["data", "shots"], sort=False)),
        list(cells["name"].unique()),
        "",
    )
    headline = f"{title}: {measure}, {'every run' if each else 'mean and range over seeds'}"
    figure, all_axes = panels(len(groups), (3.4, 2.6), headline)
    metric = cells["metric"].iloc[0]
    for axes, ((data, shots), group) in zip(all_axes, groups, strict=True):
        for name, row in group.groupby("name", sort=False):
            curves, colour = pd.concat(list(row["curve"]), axis=1).sort_index(), COLOURS[names.index(name)]
            if each:
                axes.plot(curves.index, curves.to_numpy(), color=colour, lw=0.9)
            else:
                axes.plot(curves.index, curves.mean(axis=1), color=colour, lw=1.2)
                band(axes, curves.index, curves.min(axis=1), curves.max(axis=1), colour)
        axes.set_yscale("log" if metric == "mse" else "linear")
        by_tasks(axes)
        finish(axes, f"{data} {shots}-shot")
    all_axes[0].set_ylabel(UNITS[metric] if measure == "validation" else "loss", fontsize=8)
    for name, colour in zip(names, COLOURS, strict=False):
        all_axes[0].plot([], [], color=colour, label=name)
    columns = 4 if max(map(len, names)) < 12 else 2
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=7)
    return figure


def logs_of(runs: pd.DataFrame) -> Curves:
    paths = [Path(folder) / "metrics.csv" for folder in runs.loc[runs["scores"].notna(), "folder"].unique()]
    return {str(path.parent): read_curves(path) for path in paths if path.exists()}


def curve_of(curves: pd.DataFrame | None, measure: str) -> pd.Series | None:
    """A measure of a run; of the training loss a moving average."""
    for name in MEASURES[measure]:
        if curves is not None and name in curves:
            curve, width = curves[name].dropna(), 1
            if measure == "training loss":
                width += len(curve) // 30
            return curve.rolling(width, min_periods=1).mean() if width > 1 else curve
    return None


def similarity(
    runs: pd.DataFrame, logs: Curves, cfg: DictConfig, title: str
) -> tuple[Figure | None, pd.DataFrame]:
    """Figure 6 of runs that differ in seeds alone, and its values as a table where the paper has them."""
    definition, own = cfg.trainer.similarity, runs[runs["data"] == runs["trained_on"]]
    measured = [curves for curves in logs.values() if f"similarity_{definition}/cosine_gradient" in curves]
    if not measured or len(own[["name", "column"]].drop_duplicates()) > 1:
        return None, pd.DataFrame()
    if set(zip(runs["data"], runs["shots"], strict=True)) != {("mini", 1)} or runs["paper"].isna().any():
        return similarity_figure(measured, definition, title), pd.DataFrame()
    tasks_between = cfg.trainer.val_check_interval * cfg.method.meta_batch_size
    means, paper, lines = pd.concat(measured).groupby(level=0).mean(), dict[str, dict[int, float]](), []
    for measure, values in figure_6().items():
        paper[measure] = {validation * tasks_between: value for validation, value in values.items()}
        ours = means[f"similarity_{definition}/{measure}"]
        for tasks in ours.index.intersection(list(paper[measure])):
            line = {
                "": measure.replace("_", " to "),
                "training tasks": f"{tasks:,}",
                "ours": f"{ours[tasks]:.3g}",
            }
            lines.append(line | {"paper": str(paper[measure][tasks])})
    return similarity_figure(measured, definition, title, paper), pd.DataFrame(lines)


def trials(done: pd.DataFrame, settings: list[str], metric: str, title: str) -> Figure:
    """The best validation score of each trial against each setting."""
    figure = Figure(figsize=(2.6 * len(settings), 2.6), layout="constrained", facecolor="white")
    figure.suptitle(f"{title}: best validation {metric} of every trial", fontsize=10)
    all_axes = figure.subplots(1, len(settings), squeeze=False, sharey=True)[0]
    for axes, name in zip(all_axes, settings, strict=True):
        values = done[name]
        if not pd.api.types.is_numeric_dtype(values):
            values = values.map(as_override).sort_values()
            axes.tick_params(axis="x", rotation=60)
        elif values.min() > 0 and values.max() / values.min() > 50:
            axes.set_xscale("log")
        axes.plot(values, done["best_validation"][values.index], "o", color=COLOURS[0], ms=4)
        axes.set_yscale("log" if metric == "mse" else "linear")
        finish(axes, xlabel=name)
    return figure
