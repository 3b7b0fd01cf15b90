"""Warnings about a run, printed at its end and stored in its result."""

from collections.abc import Mapping
from typing import Any


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
