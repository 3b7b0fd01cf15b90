"""The predictions of a test for each query: their table, and which classes were confused."""

from pathlib import Path

import numpy as np
import pandas as pd

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.files import atomic_write
from fewshot.methods.base import MetaLearner


def predictions_of(learner: MetaLearner, datamodule: EpisodicDataModule) -> pd.DataFrame:
    """One row per query of the test just run, ordered by task.

    The columns are task and query, then for classes true, predicted (names) and the predicted class's
    probability, for regression target and prediction.
    """
    tasks, kept = learner.test_tasks.compute().long().view(-1), learner.test_predictions.compute()
    order = tasks.argsort()
    numbers, queries = tasks[order].cpu().numpy(), kept.shape[1]
    first, second, *others = kept[order].cpu().float().numpy().transpose(2, 0, 1)
    frame = pd.DataFrame(
        {"task": numbers.repeat(queries), "query": np.tile(np.arange(queries), len(numbers))}
    )
    if learner.task.regression:
        return frame.assign(target=first.ravel(), prediction=second.ravel())
    names = np.array(datamodule.class_names("test", numbers.tolist()), dtype=object)
    true, predicted = (np.take_along_axis(names, labels.astype(int), 1).ravel() for labels in (first, second))
    return frame.assign(true=true, predicted=predicted, probability=others[0].ravel())


def write_predictions(path: Path, predictions: pd.DataFrame) -> None:
    atomic_write(path, predictions.to_csv(index=False, lineterminator="\n"))


def confusions(predictions: pd.DataFrame) -> pd.DataFrame:
    """The number of queries by true and predicted class, the most first."""
    return predictions.value_counts(["true", "predicted"]).reset_index(name="queries")


def show_predictions(predictions: pd.DataFrame | None) -> None:
    """Prints the classes of the lowest accuracy and the pairs confused most often, if there are any."""
    if predictions is not None and "true" in predictions:
        right = predictions["true"] == predictions["predicted"]
        accuracies = (100 * right).groupby(predictions["true"]).mean().nsmallest(5)
        print(f"lowest accuracy in %\n{accuracies.to_string(float_format='{:.1f}'.format)}")
        print(f"confused most often\n{confusions(predictions[~right]).head().to_string(index=False)}")
