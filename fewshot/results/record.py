"""A run's result.json, the score of each test task, and the line that shows a score."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from fewshot.config.run_id import config_diff
from fewshot.errors import Diverged
from fewshot.files import atomic_write
from fewshot.methods.base import MetaLearner
from fewshot.methods.losses import baseline_name
from fewshot.results.environment import git_commit
from fewshot.results.paper import bn_in_test, has_table, paper_figure
from fewshot.results.statistics import mean_and_ci95

BASELINES = {"nearest_neighbour": "nearest neighbour in pixels", "support_mean": "mean of the support set"}


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

    `config_diff` holds what differs from the published settings of the run's variant, `differs_from_paper`
    what differs from the settings behind the paper's table; None where the paper has no such table.
    """
    own, from_paper = config_diff(cfg, table=table), None
    if has_table(cfg.method.name, cfg.data.name):
        from_paper = own if cfg.variant == "released" else config_diff(cfg, "released")
    data, regression = cfg.data, learner.task.regression
    backbone, bn = "raw", "none"
    if learner.uses_backbone:
        backbone = "/".join(filter(None, (cfg.backbone.name, cfg.backbone.get("model"))))
        bn = cfg.backbone.get("bn", "none")
    result = {"method": cfg.method.name, "variant": cfg.variant, "data": data.name, "trained_on": data.name}
    result |= {"seed": cfg.seed, "split": "test", "backbone": backbone, "bn": bn, "train_bn": bn}
    result |= {"shots": cfg.shots, "train_shots": data.train_shots or cfg.shots, "val_shots": cfg.shots}
    ways, train_ways = (1, 1) if regression else (data.ways, data.train_ways or data.ways)
    result |= {"ways": ways, "train_ways": train_ways}
    result |= {"train_queries": data.train_queries, "test_queries": data.test_queries}
    result |= {"published_settings": from_paper == {}, "config_diff": own, "differs_from_paper": from_paper}
    result |= {"parameters": sum(p.numel() for p in learner.parameters()), "metric": learner.task.metric}
    return result | {"git_commit": git_commit()}  # now: the checkout may change during the run


def scored(learner: MetaLearner) -> Scores:
    """The scores of the test just run, ordered by task number.

    Raises:
        Diverged: a task's score is not finite.
    """
    order = learner.test_tasks.compute().view(-1).argsort()
    tasks, values, baselines = (
        metric.compute().view(-1)[order]
        for metric in (learner.test_tasks, learner.test_scores, learner.test_baselines)
    )
    numbers, scores = tasks.long().tolist(), values.tolist()
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


def protocol(result: Mapping[str, Any]) -> str:
    """How a score was measured, in words: `5-way 1-shot, 600 tasks, 1 query a class`."""
    queries, ways = result["test_queries"], result["ways"]
    words = [f"{ways}-way {result['shots']}-shot" if ways > 1 else f"{result['shots']}-shot"]
    words.append(f"{result['tasks']} tasks")
    words.append(("1 query" if queries == 1 else f"{queries} queries") + " a class" * (ways > 1))
    if result["trained_on"] != result["data"]:
        words.append(f"trained on {result['trained_on']}")
    if result["val_shots"] != result["shots"]:
        words.append(f"trained for {result['val_shots']}-shot")
    if bn := bn_in_test(result):
        words.append(f"tested with bn {bn}")
    if (status := result.get("run_status", result["status"])) != "finished":
        words.append(f"run {status}")
    return ", ".join(words)


def score_line(result: Mapping[str, Any]) -> str:
    """`64.00% ± 0.90 test accuracy (5-way 1-shot, 600 tasks, …)`, with the paper's mean if it has one."""
    if result.get("mean") is None:
        return f"no test score: {result['status']} ({result.get('reason', '')})"
    unit, digits = ("%", 2) if result["metric"] == "accuracy" else ("", 4)
    interval = "" if result["ci95"] is None else f" ± {result['ci95']:.{digits}f}"
    details = [f"{protocol(result)}, bn {result['bn']}"]
    for name, value in result["baselines"].items():
        details.append(f"{BASELINES.get(name, name)} {value:.{digits}f}{unit}")
    if (figure := paper_figure(result)) is not None:
        details.append(f"paper, mean of 3 runs: {figure:.{digits}f}{unit}")
    return f"{result['mean']:.{digits}f}{unit}{interval} test {result['metric']} ({'; '.join(details)})"


def title_of(result: Mapping[str, Any]) -> str:
    """The heading of a picture of a result."""
    where, trained_on = result["data"], result["trained_on"]
    where += f", trained on {trained_on}" * (trained_on != where)
    return "{method} on {}, {shots}-shot, variant {variant}, seed {seed}".format(where, **result)


def as_overrides(settings: Mapping[str, Any]) -> str:
    """Settings as overrides; of a group that was chosen anew, its name, model and weights only."""
    chosen = [key.removesuffix(".name") for key in settings if key.endswith(".name")]
    words = []
    for key, value in settings.items():
        of_choice = key.endswith((".name", ".model", ".weights")) and value is not None
        if of_choice or key.split(".")[0] not in chosen:
            words.append(f"{key.removesuffix('.name')}={as_override(value)}")
    return " ".join(words)


def as_override(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def show(result: Mapping[str, Any], folder: Path | None) -> None:
    """Prints a result and its folder."""
    console, own, from_paper = Console(), result["config_diff"], result["differs_from_paper"] or {}
    name = "{method} on {data}, variant {variant}, seed {seed}".format_map(result)
    name += f", {as_overrides(own)}" * bool(own)
    if from_paper not in ({}, own):
        print(f"differs from the settings behind the paper's table: {as_overrides(from_paper)}")
    for measure, value in result.get("interpretability", {}).items():
        console.print(Text(f"{measure}: {value:.3f}"))
    for warning in result.get("warnings", []):
        console.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)
    place = "" if folder is None else f"\n{folder}"
    console.print(Text.assemble((name, "bold"), f": {score_line(result)}{place}"), soft_wrap=True)
