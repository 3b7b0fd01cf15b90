"""Warnings about a run, printed at its end and stored in its result."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot.plots.curves import read_curves

VANISHED = 1e-8  # a gradient norm below the epsilon of Adam
EXPLODED = 1000  # times the median norm


def diagnostics(result: Mapping[str, Any], metrics: Path) -> list[str]:
    """The warnings about a result and about the curves in `metrics`, if there are any."""
    found = [at_chance(result), gradients(metrics) if metrics.exists() else ""]
    return [warning for warning in found if warning]


def at_chance(result: Mapping[str, Any]) -> str:
    """Whether the test's interval reaches chance; on sine chance is the mean of the support set."""
    if result.get("mean") is None:
        return ""
    mean, ci95, baselines = result["mean"], result["ci95"] or 0, result["baselines"]
    if "chance" in baselines:
        chance, learned = baselines["chance"], mean - ci95 > baselines["chance"]
    else:
        chance, learned = baselines["support_mean"], mean + ci95 < baselines["support_mean"]
    return "" if learned else f"at chance: {mean:.4g} ± {ci95:.4g} in the test, and chance is {chance:.4g}"


def gradients(metrics: Path) -> str:
    """Whether the logged norms of the meta-gradient, taken before any clipping, vanish or explode."""
    curves = read_curves(metrics)
    if "train/gradient_norm" not in curves:
        return ""
    # inf: in 16 bits, where the scale is too large
    norms = curves["train/gradient_norm"].replace(math.inf, math.nan).dropna()
    if (share := (norms < VANISHED).mean()) > 0.5:
        return f"gradient vanished: norm below {VANISHED} in {share:.0%} of the logged updates"
    if (peak := norms.max()) > EXPLODED * (median := norms.median()):
        return f"gradient exploded: norm {peak:.3g} after {norms.idxmax():.0f} tasks, median {median:.3g}"
    return ""
