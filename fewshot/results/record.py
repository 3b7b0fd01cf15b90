"""What is kept of a test in result.json, its mean and interval, and the line that shows a score."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from pandas import DataFrame
from scipy import stats

from fewshot.config.run_id import config_diff, protocol
from fewshot.errors import Diverged
from fewshot.methods.base import MetaLearner
from fewshot.results.environment import git_commit
from fewshot.results.paper import bn_in_test, paper_numbers

Result = dict[str, Any]


def read_result(folder: Path) -> Result | None:
    """The result of a run, or of a test in its `evaluations`; None where there is none."""
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def describe(
    trained: DictConfig, tested: DictConfig, learner: MetaLearner, table: str | None = None
) -> dict[str, Any]:
    """The part of a result that is known before the test `tested` of a run; `table` as in `identity`.

    `config_diff` holds what differs from the published settings of the run's variant.
    """
    data, backbone, bn, train_bn = trained.data, "raw", "none", "none"
    if learner.uses_backbone or trained.backbone.get("frozen"):
        backbone = "/".join(filter(None, (trained.backbone.name, trained.backbone.get("model"))))
        bn, train_bn = (cfg.backbone.get("bn", "none") for cfg in (tested, trained))
    if trained.backbone.get("frozen") and bn != "none":
        bn = train_bn = "stored"
    result = {"method": trained.method.name, "variant": trained.variant, "data": data.name}
    result |= {"trained_on": data.name, "seed": trained.seed, "split": "test", "backbone": backbone}
    result |= {"bn": bn, "train_bn": train_bn, **protocol(tested)}
    result |= {"train_shots": data.train_shots or trained.shots, "val_shots": trained.shots}
    result |= {"train_ways": data.get("train_ways") or data.get("ways", 1)}
    result |= {"train_queries": data.train_queries, "metric": learner.task.metric}
    result |= {"parameters": sum(p.numel() for p in learner.parameters())}
    # the commit now: the checkout may change during the run
    return result | {"config_diff": config_diff(trained, table), "git_commit": git_commit()}


def half_width(values: np.ndarray) -> float:
    """Half of the 95% t-interval of a mean; NaN for fewer than two values."""
    count = len(values)
    return float(stats.sem(values) * stats.t.ppf(0.975, count - 1)) if count > 1 else np.nan


def scored(learner: MetaLearner) -> tuple[dict[str, Any], DataFrame]:
    """The test just run: what result.json holds of it, and a row per task, in order: task, score, baseline.

    Raises Diverged if a score is not finite.
    """
    baseline, rows = learner.task.baseline, learner.test_rows.compute()[:, :3].double().cpu()
    scores = DataFrame(rows.numpy(), columns=["task", "score", baseline]).astype({"task": int})
    scores = scores.sort_values("task", ignore_index=True)
    if len(wrong := scores[~np.isfinite(scores["score"])]):
        raise Diverged("the score of test task {task:.0f} was {score}".format_map(wrong.iloc[0]))
    values = scores["score"].to_numpy()
    mean, ci95 = float(values.mean()), half_width(values) if len(values) > 1 else None
    baselines = {baseline: scores[baseline].mean()}
    if not learner.task.regression:
        baselines["chance"] = 100 / learner.task.outputs
    summary = {"mean": mean, "ci95": ci95, "tasks": len(scores), "baselines": baselines}
    return summary | {"warnings": diagnostics(summary)}, scores


def diagnostics(result: Mapping[str, Any]) -> list[str]:
    """Whether the test's interval reaches chance; on sine that is the mean of the support set."""
    mean, ci95, baselines = result["mean"], result["ci95"] or 0, result["baselines"]
    chance = baselines["chance" if "chance" in baselines else "support_mean"]
    better = mean - chance if "chance" in baselines else chance - mean
    what = "chance is" if "chance" in baselines else "the support set's mean has"
    warning = f"at chance: {mean:.4g} ± {ci95:.4g} in the test, and {what} {chance:.4g}"
    return [] if better > ci95 else [warning]


def name_of_test(result: Mapping[str, Any]) -> str:
    """The name of a test's folder in `evaluations`."""
    sizes = "{data}-{ways}way-{shots}shot-{test_queries}queries-{tasks}tasks".format_map(result)
    return "-bn-".join(filter(None, [sizes, bn_in_test(result)]))


def score_line(result: Mapping[str, Any]) -> str:
    """`64.00% ± 0.90 test accuracy (5-way 1-shot, …)`, with baselines and the paper's mean if it has one."""
    if result.get("mean") is None:
        return f"no test score: {result['status']} ({result.get('reason', '')})"
    unit, digits = ("%", 2) if result["metric"] == "accuracy" else ("", 4)
    interval = "" if result["ci95"] is None else f" ± {result['ci95']:.{digits}f}"
    classes = "{ways}-way {shots}-shot, {tasks} tasks, queries per class: {test_queries}, bn {bn}"
    values = "{shots}-shot, {tasks} tasks, queries: {test_queries}, bn {bn}"
    details = [values if result["metric"] == "mse" else classes]
    if result["val_shots"] != result["shots"]:
        details += ["trained for {val_shots}-shot"]
    if bn_in_test(result):
        details += ["trained with bn {train_bn}"]
    if result.get("run_status", "finished") != "finished":
        details += ["run {run_status}: its best state so far"]
    others = result["baselines"] | {"paper, mean of 3 runs:": paper_numbers(result).get("value")}
    for name, value in others.items():
        details += [f"{name.replace('_', ' ')} {value:.{digits}f}{unit}"] if value is not None else []
    words = "; ".join(details).format_map(result)
    return f"{result['mean']:.{digits}f}{unit}{interval} test {result['metric']} ({words})"


def title_of(result: Mapping[str, Any]) -> str:
    """A result's heading, also of its pictures."""
    where = " → ".join(dict.fromkeys([result["trained_on"], result["data"]]))
    return "{method} on {}, {shots}-shot, variant {variant}, seed {seed}".format(where, **result)


def as_override(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def as_overrides(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={as_override(value)}" for key, value in settings.items())


def show(result: Mapping[str, Any], folder: Path) -> None:
    """Prints a result and its folder."""
    for measure, value in result.get("interpretability", {}).items():
        print(f"{measure}: {value:.3f}")
    for warning in result.get("warnings", []):
        print(f"warning: {warning}")
    name = f"{title_of(result)} {as_overrides(result['config_diff'])}".strip()
    print(f"{name}: {score_line(result)}\n{folder}")
