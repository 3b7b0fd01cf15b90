"""Means and intervals of task scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def half_width(values: NDArray[np.float64], axis: int = -1) -> Any:
    """Half of the 95% t-interval of a mean along an axis; NaN for fewer than two values."""
    if (count := values.shape[axis]) < 2:
        return np.nan
    return stats.sem(values, axis=axis) * stats.t.ppf(0.975, count - 1)


def mean_and_ci95(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of the 95% interval over independent task scores; one score has none."""
    values = np.asarray(scores, dtype=np.float64)
    return float(values.mean()), float(half_width(values)) if len(values) > 1 else None
