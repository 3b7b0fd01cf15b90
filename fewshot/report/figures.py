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
            ours = {"xerr": cell["ci95_tasks"], "fmt": "o", "color": COLOURS[place], "capsize": 2}
            paper = {"xerr": cell["paper_ci95"], "fmt": "o", "color": INK, "mfc": "white", "ms": 4, "lw": 0.8}
            axes.errorbar(cell["mean"], place, **ours)
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
        low, high = row["mean"] - row["ci95_seeds"], row["mean"] + row["ci95_seeds"]
        axes.fill_between(row["shots"], low, high, color=colour, alpha=0.2, lw=0)
        if row["paper"].notna().any():
            axes.plot(row["shots"], row["paper"], "--", color=colour, lw=1, label=f"{name}, paper")
    metric = own["metric"].iloc[0]
    if metric == "mse":
        axes.set_ylim(bottom=0)  # the band of three seeds may reach below
    axes.legend(frameon=False, fontsize=7)
    finish(axes, xlabel="shots", ylabel=UNITS[metric])
    return figure


def learning(runs: pd.DataFrame, logs: Curves, name: str, title: str) -> Figure | None:
    """What the runs logged as `name`, a panel per data set and shots: every run, and the mean over seeds."""
    own = runs[runs["data"] == runs["trained_on"]]
    own = own[[name in logs.get(folder, ()) for folder in own["folder"]]]
    if own.empty:
        return None
    groups, names = list(own.groupby(["data", "shots"], sort=False)), list(own["name"].unique())
    figure, all_axes = panels(len(groups), (3.4, 2.6), f"{title}: {name}, every run and the mean over seeds")
    for axes, ((data, shots), group) in zip(all_axes, groups, strict=True):
        for row_name, row in group.groupby("name", sort=False):
            curves = pd.concat([logs[folder][name] for folder in row["folder"]], axis=1)
            curves, colour = curves.dropna(how="all").sort_index(), COLOURS[names.index(row_name)]
            if name == "train/loss":
                curves = curves.rolling(len(curves) // 30 + 1, min_periods=1).mean()
            axes.plot(curves.index, curves.to_numpy(), color=colour, lw=0.8, alpha=0.4)
            axes.plot(curves.index, curves.mean(axis=1), color=colour, lw=1.2)
        axes.set_yscale("log" if own["metric"].iloc[0] == "mse" else "linear")
        by_tasks(axes)
        finish(axes, f"{data} {shots}-shot")
    for row_name, colour in zip(names, COLOURS, strict=False):
        all_axes[0].plot([], [], color=colour, label=row_name)
    columns = 4 if max(map(len, names)) < 12 else 2
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=7)
    return figure


def logs_of(runs: pd.DataFrame) -> Curves:
    paths = [Path(folder) / "metrics.csv" for folder in runs.loc[runs["scores"].notna(), "folder"].unique()]
    return {str(path.parent): read_curves(path) for path in paths if path.exists()}


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
