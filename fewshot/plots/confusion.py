"""The confusion matrix of a test, as a figure."""

import pandas as pd
from matplotlib.figure import Figure

from fewshot.plots.episodes import INK, shown_by_font
from fewshot.results.predictions import confusions

MOST = 25  # classes in the figure


def confusion_figure(predictions: pd.DataFrame, title: str) -> Figure:
    """The share in % of each class's queries that were given each class, a row a true class.

    Of more than 25 classes those with the most wrong queries are shown; the rows' shares are of all their queries.
    """
    counts = confusions(predictions).pivot(index="true", columns="predicted", values="queries").fillna(0.0)
    classes = counts.index.union(counts.columns)
    counts = counts.reindex(index=classes, columns=classes, fill_value=0.0)
    wrong = predictions["true"][predictions["true"] != predictions["predicted"]].value_counts()
    shown = (
        wrong.reindex(classes, fill_value=0)
        .sort_values(ascending=False, kind="stable")
        .index[:MOST]
        .sort_values()
    )
    shares = (100 * counts.div(counts.sum(axis=1), axis=0)).loc[shown, shown]
    names = [shown_by_font(str(name).replace("_", " "))[:30] for name in shown]
    size = 2.6 + 0.28 * len(shown)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained", facecolor="white")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axes.set_xlabel("predicted class", fontsize=8, color=INK)
    axes.set_ylabel("true class", fontsize=8, color=INK)
    of_all = f"the {len(shown)} of {len(classes)} classes with the most wrong queries"
    axes.set_title(
        title if len(shown) == len(classes) else f"{title}\n{of_all}", fontsize=8, loc="left", color=INK
    )
    figure.colorbar(image, ax=axes, label="% of the true class's queries", shrink=0.7)
    return figure
