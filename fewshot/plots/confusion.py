"""The confusion matrix of a test, as a figure."""

import pandas as pd
from matplotlib.figure import Figure

from fewshot.plots.episodes import displayable, styled

MOST = 25  # classes in the figure


@styled
def confusion_figure(predictions: pd.DataFrame, title: str) -> Figure:
    """The share in % of each class's queries for which each class was predicted; a row per true class.

    Of more than 25 classes those with the most wrong queries are shown; shares are of all queries of a class.
    """
    true, predicted = predictions["true"], predictions["predicted"]
    shown = (true != predicted).groupby(true).sum().nlargest(MOST).index.sort_values()
    shares = 100 * pd.crosstab(true, predicted, normalize="index")
    shares = shares.reindex(index=shown, columns=shown, fill_value=0)
    if len(shown) < true.nunique():
        title += f"\nthe {len(shown)} of {true.nunique()} classes with the most wrong queries"
    size = 2.6 + 0.28 * len(shown)
    figure = Figure(figsize=(size + 0.6, size))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    names = [displayable(str(name)) for name in shown]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(image, ax=axes, label="% of the true class's queries", shrink=0.7)
    return figure
