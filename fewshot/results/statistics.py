"""Means and intervals of task scores, and whether they are better than chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def half_width(values: NDArray[np.float64]) -> float:
    """Half of the 95% t-interval of a mean; NaN for fewer than two values."""
    count = len(values)
    return float(stats.sem(values) * stats.t.ppf(0.975, count - 1)) if count > 1 else np.nan


def mean_and_ci95(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of the 95% interval over independent task scores; one score has none."""
    values = np.asarray(scores, dtype=np.float64)
    return float(values.mean()), half_width(values) if len(values) > 1 else None


def diagnostics(result: Mapping[str, Any]) -> list[str]:
    """Whether the test's interval reaches chance; on sine that is the mean of the support set."""
    if result.get("mean") is None:
        return []
    mean, ci95, baselines = result["mean"], result["ci95"] or 0, result["baselines"]
    if "chance" in baselines:
        chance, learned = baselines["chance"], mean - ci95 > baselines["chance"]
    else:
        chance, learned = baselines["support_mean"], mean + ci95 < baselines["support_mean"]
    return [] if learned else [f"at chance: {mean:.4g} ± {ci95:.4g} in the test, and chance is {chance:.4g}"]
