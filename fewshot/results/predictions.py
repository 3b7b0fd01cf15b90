"""The predictions of a test for each query, and which classes were confused."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.methods.base import MetaLearner
from fewshot.plots.episodes import displayable, styled

MOST = 25  # classes in a confusion matrix


def predictions_of(learner: MetaLearner, datamodule: EpisodicDataModule) -> pd.DataFrame:
    """One row per query of the test just run, ordered by task.

    The columns are task and query, then for classes true, predicted (names) and the predicted class's
    probability, for regression target and prediction; with several outputs, a row for each.
    """
    columns = ["target", "prediction"] if learner.task.regression else ["true", "predicted", "probability"]
    kept = learner.test_rows.compute().cpu().float()
    kept = kept[kept[:, 0].argsort()]
    outputs = learner.task.outputs if learner.task.regression else 1
    numbers, rows = kept[:, 0].int().tolist(), kept[:, 3:].unflatten(1, (-1, outputs, len(columns))).numpy()
    parts = {"task": numbers, "query": range(rows.shape[1]), "output": range(outputs)}
    index = pd.MultiIndex.from_product(parts.values(), names=parts)
    frame = pd.DataFrame(rows.reshape(len(index), -1), index, columns).reset_index()
    if outputs == 1:
        frame, rows = frame.drop(columns="output"), rows[:, :, 0]
    if not learner.task.regression:
        names = np.array(datamodule.source.class_names("test", np.array(numbers)), dtype=object)
        for column, labels in (("true", rows[..., 0]), ("predicted", rows[..., 1])):
            frame[column] = np.take_along_axis(names, labels.astype(int), 1).ravel()
    return frame


def confusions(predictions: pd.DataFrame) -> pd.DataFrame:
    """The number of queries by true and predicted class, the most first."""
    return predictions.value_counts(["true", "predicted"]).reset_index(name="queries")


def show_predictions(predictions: pd.DataFrame) -> None:
    """Prints the classes of the lowest accuracy and the pairs confused most often."""
    right = predictions["true"] == predictions["predicted"]
    accuracies = (100 * right).groupby(predictions["true"]).mean().nsmallest(5)
    print(f"lowest accuracy in %\n{accuracies.to_string(float_format='{:.1f}'.format)}")
    print(f"confused most often\n{confusions(predictions[~right]).head().to_string(index=False)}")


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
