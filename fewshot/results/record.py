"""A run's result.json, the score of each test task, and the line that shows a score."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from fewshot.config.run_id import config_diff
from fewshot.errors import Diverged
from fewshot.files import atomic_write
from fewshot.methods.base import MetaLearner
from fewshot.methods.losses import baseline_name
from fewshot.results.environment import git_commit
from fewshot.results.paper import bn_in_test, paper_figure
from fewshot.results.statistics import mean_and_ci95


class Scores(NamedTuple):
    """A test: what result.json holds of it, and the number, score and baseline of each task."""

    summary: dict[str, Any]  # mean, ci95, tasks (their number), baselines
    tasks: list[int]
    values: list[float]
    baselines: list[float]


NO_SCORES = Scores({"mean": None, "ci95": None, "tasks": None, "baselines": {}}, [], [], [])


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    atomic_write(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


def write_scores(path: Path, scores: Scores) -> None:
    """One row a test task, ordered by task number."""
    rows = zip(scores.tasks, scores.values, strict=True)
    atomic_write(path, "task,score\n" + "".join(f"{task},{score!r}\n" for task, score in rows))


def read_result(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def final_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run that has ended for good, finished or diverged."""
    result = read_result(folder / "result.json")
    return result if result and result["status"] in ("finished", "diverged") else None


def describe(cfg: DictConfig, learner: MetaLearner, table: str | None = None) -> dict[str, Any]:
    """The part of a result that is known before training; `table` as in `identity`.

    `config_diff` holds what differs from the published settings of the run's variant.
    """
    data, backbone, bn, ways = cfg.data, "raw", "none", cfg.data.get("ways", 1)
    if learner.uses_backbone:
        backbone = "/".join(filter(None, (cfg.backbone.name, cfg.backbone.get("model"))))
        bn = cfg.backbone.get("bn", "none")
    result = {"method": cfg.method.name, "variant": cfg.variant, "data": data.name, "trained_on": data.name}
    result |= {"seed": cfg.seed, "split": "test", "backbone": backbone, "bn": bn, "train_bn": bn}
    result |= {"shots": cfg.shots, "train_shots": data.train_shots or cfg.shots, "val_shots": cfg.shots}
    result |= {"ways": ways, "train_ways": data.get("train_ways") or ways}
    result |= {"train_queries": data.train_queries, "test_queries": data.test_queries}
    result |= {"parameters": sum(p.numel() for p in learner.parameters()), "metric": learner.task.metric}
    # the commit now: the checkout may change during the run
    return result | {"config_diff": config_diff(cfg, table), "git_commit": git_commit()}


def scored(learner: MetaLearner) -> Scores:
    """The scores of the test just run, ordered by task number; raises Diverged if one is not finite."""
    kept = (learner.test_tasks, learner.test_scores, learner.test_baselines)
    tasks, values, baselines = (metric.compute().view(-1) for metric in kept)
    order = tasks.argsort()
    numbers, scores, baselines = tasks[order].long().tolist(), values[order].tolist(), baselines[order]
    for task, score in zip(numbers, scores, strict=True):
        if not math.isfinite(score):
            raise Diverged(f"the score of test task {task} was {score}")
    mean, ci95 = mean_and_ci95(scores)
    means = {baseline_name(learner.task): float(baselines.double().mean())}
    if not learner.task.regression:
        means["chance"] = 100 / learner.task.outputs
    summary = {"mean": mean, "ci95": ci95, "tasks": len(scores), "baselines": means}
    return Scores(summary, numbers, scores, baselines.tolist())


def name_of_test(result: Mapping[str, Any], table: str) -> str:
    """The name of a test's files; `table` is the data set, or what tells one folder of images from others."""
    bn = bn_in_test(result)
    sizes = "{ways}way-{shots}shot-{test_queries}queries-{tasks}tasks".format_map(result)
    return f"{table}-{sizes}" + f"-bn-{bn}" * bool(bn)


def score_line(result: Mapping[str, Any]) -> str:
    """`64.00% ± 0.90 test accuracy (5-way 1-shot, …)`, with baselines and the paper's mean if it has one."""
    if result.get("mean") is None:
        return f"no test score: {result['status']} ({result.get('reason', '')})"
    unit, digits = ("%", 2) if result["metric"] == "accuracy" else ("", 4)
    interval = "" if result["ci95"] is None else f" ± {result['ci95']:.{digits}f}"
    details = ["{ways}-way {shots}-shot, {tasks} tasks, queries per class: {test_queries}, bn {bn}"]
    if result["val_shots"] != result["shots"]:
        details += ["trained for {val_shots}-shot"]
    if bn_in_test(result):
        details += ["trained with bn {train_bn}"]
    if result.get("run_status", "finished") != "finished":
        details += ["run {run_status}: its best state so far"]
    others = result["baselines"] | {"paper, mean of 3 runs:": paper_figure(result)}
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
