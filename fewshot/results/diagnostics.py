"""What should make one doubt a run: said at its end, and kept in its result under `warnings`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot.plots.curves import read_curves

VANISHED = 1e-8  # below it Adam's steps shrink as the gradient does
BLOWN_UP = 1000  # times the median
FEW = 4  # examples: where each has one value of a feature, two of them become ±1, whatever they were


def diagnostics(result: Mapping[str, Any], metrics: Path) -> list[str]:
    """Of a result, and of what was logged on the way, if anything was."""
    curves: Mapping[str, Any] = read_curves(metrics) if metrics.exists() else {}
    metric = result["metric"]
    found = [at_chance(result), small_sets(result), gradients(curves), jumps(curves, metric)]
    if result["status"] == "finished":
        found.append(unmoved(curves, metric))
    return [line for line in found if line]


def at_chance(result: Mapping[str, Any]) -> str:
    """A test whose interval reaches what a guess scores; on sine waves a guess is the mean of the support set."""
    if result.get("mean") is None:
        return ""
    mean, ci95, floors = result["mean"], result["ci95"] or 0, result["baselines"]
    if "chance" in floors:
        guess, learned = floors["chance"], mean - ci95 > floors["chance"]
    else:
        guess, learned = floors["support_mean"], mean + ci95 < floors["support_mean"]
    if learned:
        return ""
    rounded = result["tf32"] or result["precision"] != "32-true"
    hint = "; rounding may hide small differences, so try trainer.precision=32-true" * rounded
    return f"it never left chance: {mean:.4g} ± {ci95:.4g} in the test, and a guess has {guess:.4g}{hint}"


def small_sets(result: Mapping[str, Any]) -> str:
    """Batch norm by the statistics of a handful of examples."""
    train_ways, ways = result["train_ways"], result["ways"]
    support = min(train_ways * result["train_shots"], ways * result["shots"])
    queries = min(train_ways * result["train_queries"], ways * result["test_queries"])
    size = {"transductive": min(support, queries), "support": support}.get(result["bn"], FEW)
    return f"batch norm sees {size} examples at a time" * (size < FEW)


def gradients(curves: Mapping[str, Any]) -> str:
    """Norms of the meta-gradient as they were logged, before any clamp."""
    if "train/gradient_norm" not in curves:
        return ""
    norms = (
        curves["train/gradient_norm"].replace(math.inf, math.nan).dropna()
    )  # a scaler for 16 bits begins with inf
    if (tiny := (norms < VANISHED).mean()) > 0.5:
        return f"the gradient vanished: its norm was below {VANISHED} in {tiny:.0%} of the updates that were logged"
    if (peak := norms.max()) > BLOWN_UP * (median := norms.median()):
        return f"the gradient blew up: its norm was {peak:.3g} after {norms.idxmax():.0f} tasks, {median:.3g} as a rule"
    return ""


def validations(curves: Mapping[str, Any], metric: str) -> tuple[Any, Any] | None:
    """The scores of all validations and their intervals; None where none has one."""
    if "val/ci95" not in curves:
        return None
    scores = curves[f"val/{metric}"].dropna()
    return scores, curves["val/ci95"].reindex(scores.index)


def unmoved(curves: Mapping[str, Any], metric: str) -> str:
    """A best validation that is within the intervals of the one before the first update."""
    if (told := validations(curves, metric)) is None:
        return ""
    scores, ci95 = told
    at = scores.idxmin() if metric == "mse" else scores.idxmax()
    if not abs(scores[at] - scores.iloc[0]) <= ci95[at] + ci95.iloc[0]:
        return ""
    before, best = f"{scores.iloc[0]:.4g}", f"{scores[at]:.4g}"
    return f"no validation was better than the one before training by more than their intervals: {before}, {best} at best"


def jumps(curves: Mapping[str, Any], metric: str) -> str:
    """Validations, on the same tasks each time, that are worse than the one before by more than both intervals."""
    if (told := validations(curves, metric)) is None:
        return ""
    scores, ci95 = told
    worse = scores.diff() * (1 if metric == "mse" else -1)
    far = worse[worse > ci95 + ci95.shift()]
    if far.empty:
        return ""
    at = far.idxmax()
    return (
        f"validation got worse by more than its intervals in {len(far)} of {len(scores) - 1} steps, most from "
        f"{scores.shift()[at]:.4g} to {scores[at]:.4g} after {at:.0f} tasks: what is tested is the best of them"
    )
