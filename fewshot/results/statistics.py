"""Means and intervals of task scores."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_and_ci95(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of the 95% t-interval over independent task scores; one score has none."""
    values = np.asarray(scores, dtype=np.float64)
    if len(values) < 2:
        return float(values.mean()), None
    return float(values.mean()), float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
