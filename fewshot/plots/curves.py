"""Figures of what was logged and scored: a run's curves; a study's scores, curves, Figure 6 and trials."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from omegaconf import DictConfig

from fewshot.plots.episodes import BLUE, ORANGE, styled
from fewshot.results.paper import read_csv
from fewshot.results.record import as_override

UNITS = {"mse": "mean squared error", "accuracy": "accuracy, %"}


def read_curves(metrics: Path) -> pd.DataFrame:
    """A data frame of what was logged: a column per metric, indexed by the number of training tasks seen."""
    return pd.read_csv(metrics).pivot_table(index="tasks", columns="metric", values="value", aggfunc="last")


def panels(count: int, size: tuple[float, float], title: str, **options: Any) -> tuple[Figure, list[Any]]:
    """`count` panels of a size in inches, three a row, below a title."""
    rows, columns = -(-count // 3), min(count, 3)
    figure = Figure(figsize=(max(size[0] * columns, 5), size[1] * rows + 0.5))
    figure.suptitle(title, wrap=True)
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def by_tasks(axes: Axes) -> None:
    """Labels the x axis with training tasks, as 20k and 40k."""
    axes.set_xlabel("training tasks")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


@styled
def learning_curve(metrics: Path, title: str) -> Figure:
    """Loss, and accuracy for classification, of training and validation against the training tasks seen."""
    curves = read_curves(metrics)
    scores = ["loss", "accuracy"] if "val/accuracy" in curves else ["loss"]
    figure, all_axes = panels(len(scores), (4, 2.8), title)
    for axes, score in zip(all_axes, scores, strict=True):
        axes.set_title(score)
        for name, colour in ((f"train/{score}", ORANGE), (f"val/{score}", BLUE)):
            if name in curves:  # a short run logs no training loss
                axes.plot(curves[name].dropna(), color=colour, marker=".", ms=3, lw=1.2, label=name)
                axes.legend()
        by_tasks(axes)
    return figure


@styled
def similarity_figure(
    runs: Sequence[pd.DataFrame], definition: str, title: str, published: bool = False
) -> Figure:
    """Figure 6: both measures against the training tasks, with the range of several runs.

    `runs` are the curves of each, from `read_curves`. If they have the published settings, the paper's values
    are drawn hollow.
    """
    paper = read_csv("paper_figure6.csv")
    title = f"{title}: similarity of updates of the output layer, as {definition}"
    figure, all_axes = panels(2, (4, 3), title)
    for axes, measure in zip(all_axes, ("cosine", "distance"), strict=True):
        axes.set_title(measure)
        for other, colour in (("gradient", BLUE), ("prototypes", ORANGE)):
            name = f"similarity_{definition}/{measure}_{other}"
            values = pd.concat([curves[name].dropna() for curves in runs], axis=1)
            axes.plot(values.mean(axis=1), "o-", color=colour, ms=3, lw=1.4, label=f"to {other}")
            axes.fill_between(values.index, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.25)
            if published:
                points = paper[paper["measure"] == f"{measure}_{other}"]
                axes.plot(points["tasks"], points["value"], "o", color=colour, mfc="white", ms=6)
        by_tasks(axes)
    axes.set_yscale("log")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def of_study(title: str, cfg: DictConfig, runs: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Figure]:
    """The figures that fit a study's runs, by their names."""
    own = runs[(runs["data"] == runs["trained_on"]) & runs["scores"].notna()]
    logs = {f: read_curves(path) for f in own["folder"] if (path := Path(f, "metrics.csv")).exists()}
    figures = {"scores": scores(cells, title)}
    if own["shots"].nunique() > 3 and own["data"].nunique() == 1:
        figures["shots"] = by_shots(own, cells, title)
    if logs:
        figures["validation"] = learning(own[own["folder"].isin(list(logs))], logs, title)
    definition = cfg.trainer.similarity
    measured = all(f"similarity_{definition}/cosine_gradient" in log for log in logs.values())
    if logs and measured and len(cells) == 1:
        published = (cfg.data.name, cfg.shots) == ("mini", 1) and own["paper"].notna().all()
        figures["similarity"] = similarity_figure(list(logs.values()), definition, title, published)
    return figures


def scores(cells: pd.DataFrame, title: str) -> Figure:
    """A panel a column: ours with the interval over tasks, the paper's hollow."""
    names, columns = list(cells["name"].unique()), list(cells.groupby("column", sort=False))
    title += ": ours with 95% over tasks"
    if cells["paper"].notna().any():
        title += ", the paper's hollow"
    figure, all_axes = panels(len(columns), (3, 0.45 * len(names) + 0.9), title, sharey=True)
    for axes, (column, group) in zip(all_axes, columns, strict=True):
        places = group["name"].map(names.index)
        axes.errorbar(group["mean"], places, xerr=group["ci95_tasks"], fmt="o", capsize=2)
        axes.errorbar(group["paper"], places + 0.22, xerr=group["paper_ci95"], fmt="ko", mfc="white", ms=4)
        axes.set(title=column, xlabel=UNITS[group["metric"].iloc[0]])
    all_axes[0].set_yticks(range(len(names)), names)
    all_axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def by_shots(own: pd.DataFrame, cells: pd.DataFrame, title: str) -> Figure:
    """A line a row: the mean by the number of shots, the band over seeds, the paper's dashed."""
    rows = cells.merge(own[["name", "column", "shots"]].drop_duplicates()).sort_values("shots")
    figure, [axes] = panels(1, (5, 2.9), f"{title}: bands are 95% over seeds, the paper's dashed")
    for place, (name, row) in enumerate(rows.groupby("name", sort=False)):
        low, high = row["mean"] - row["ci95_seeds"], row["mean"] + row["ci95_seeds"]
        axes.plot(row["shots"], row["mean"], f"C{place}o-", ms=4, label=name)
        axes.fill_between(row["shots"], low, high, color=f"C{place}", alpha=0.2, lw=0)
        axes.plot(row["shots"], row["paper"], f"C{place}--", lw=1)
    metric = cells["metric"].iloc[0]
    axes.set(xlabel="shots", ylabel=UNITS[metric])
    axes.set_ylim(bottom=0 if metric == "mse" else None)  # the band of three seeds may reach below
    axes.legend()
    return figure


def learning(own: pd.DataFrame, logs: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Validation by training tasks, a panel per data set and shots: every run, and the mean over seeds."""
    metric, names = own["metric"].iloc[0], own["name"].unique()
    groups = list(own.groupby(["data", "shots"], sort=False))
    title = f"{title}: val/{metric}, every run and the mean over seeds"
    figure, all_axes = panels(len(groups), (3.4, 2.6), title)
    for axes, ((data, shots), group) in zip(all_axes, groups, strict=True):
        for place, name in enumerate(names):
            folders = group.loc[group["name"] == name, "folder"]
            curves = pd.DataFrame({f: logs[f][f"val/{metric}"] for f in folders}).dropna(how="all")
            if len(curves) < 2:
                continue  # not trained
            axes.plot(curves, color=f"C{place}", lw=0.8, alpha=0.4)
            axes.plot(curves.mean(axis=1), color=f"C{place}", lw=1.2, label=name)
        axes.set(yscale="log" if metric == "mse" else "linear", title=f"{data} {shots}-shot")
        by_tasks(axes)
    columns = max(1, min(3, int(8 * figure.get_figwidth() / max(map(len, names)))))
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


@styled
def trials(best: pd.Series, settings: pd.DataFrame, metric: str, title: str) -> Figure:
    """The best validation score of each trial against each setting; a learning rate's axis is logarithmic."""
    title = f"{title}: best validation {metric} of every trial"
    figure, all_axes = panels(len(settings.columns), (2.6, 2.6), title, sharey=True)
    for axes, (name, values) in zip(all_axes, settings.items(), strict=True):
        if not pd.api.types.is_numeric_dtype(values):
            values = values.map(as_override).sort_values()
            axes.tick_params(axis="x", rotation=60)
        axes.plot(values, best[values.index], "o", ms=4)
        axes.set(yscale="log" if metric == "mse" else "linear", xscale="log" if name == "lr" else "linear")
        axes.set_xlabel(str(name))
    return figure
