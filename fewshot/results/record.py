"""The files of a run's folder: result.json, per-task scores, and the line that shows a score."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from omegaconf import DictConfig
from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot.baselines import baseline_name
from fewshot.config.run_id import config_diff
from fewshot.errors import Diverged, UserError
from fewshot.files import atomic_write
from fewshot.methods.base import MetaLearner
from fewshot.results.environment import git_commit
from fewshot.results.paper import has_table, paper_figure
from fewshot.results.protocol import Protocol
from fewshot.results.statistics import mean_and_ci95

Number = Annotated[float, Field(gt=-1e300, lt=1e300)]
MAY_LACK: dict[str, Any] = {  # a result that failed, or a stranger's
    **dict.fromkeys(
        ("mean", "ci95", "train_seconds", "tasks_per_second", "peak_memory_bytes"), Number | None
    ),
    "best_validation": Number | None,
    **dict.fromkeys(("tasks", "train_tasks", "parameters", "threads"), int | None),
    **dict.fromkeys(("reason", "git_commit", "train_bn"), str | None),
    "differs_from_paper": dict | None,
}
SHOWN: dict[str, Any] = {  # what is read of a kept result
    "status": Literal["finished", "timeout", "diverged", "failed"],
    **dict.fromkeys(("method", "variant", "data", "trained_on", "metric", "bn"), str),
    **dict.fromkeys(("ways", "shots", "val_shots", "test_queries", "seed"), int),
    **dict.fromkeys(("interpretability", "baselines"), dict[str, Number]),
    **dict.fromkeys(("config_diff", "tests"), dict),
    "warnings": list[str],
    "device": str,
    "versions": dict[str, str],
    "run_status": str | None,  # in what evaluate.py keeps
} | MAY_LACK
ABSENT: dict[str, Any] = {
    **{
        "baselines": {},
        "interpretability": {},
        "warnings": [],
        "device": "unknown",
        "versions": {},
    },  # a test has no findings
    **dict.fromkeys(MAY_LACK),
}


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    atomic_write(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


class Scores(NamedTuple):
    """A test's mean, interval, number of tasks and floors, as a result holds them; each task's number, score, floor."""

    summary: dict[str, Any]
    tasks: list[int]
    values: list[float]
    floors: list[float]


NO_SCORES = Scores({"mean": None, "ci95": None, "tasks": None, "baselines": {}}, [], [], [])
FLOORS = {"nearest_neighbour": "nearest neighbour in pixels", "support_mean": "mean of the support set"}


def write_scores(path: Path, scores: Scores) -> None:
    """One row a test task, ordered by task number."""
    rows = zip(scores.tasks, scores.values, strict=True)
    atomic_write(path, "task,score\n" + "".join(f"{task},{score!r}\n" for task, score in rows))


def read_result(path: Path) -> dict[str, Any] | None:
    """A kept result, with None for what it lacks; None where the file is missing or holds something else."""
    if not path.is_file():
        return None
    try:
        result = ABSENT | json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError, UserError):
        return None
    steers = re.search(
        r"\\u00[01]|[\x7f-\x9f]", json.dumps(result, ensure_ascii=False)
    )  # signs that steer terminals
    fits = (result["status"] == "finished") == (result["mean"] is not None) == (result["tasks"] is not None)
    return result if fits and not steers else None


def final_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run that has ended for good; None where it has not, or has left none."""
    result = read_result(folder / "result.json")
    return result if result and result["status"] in ("finished", "diverged") else None


def describe(cfg: DictConfig, learner: MetaLearner, table: str | None = None) -> dict[str, Any]:
    """The part of a result that its configuration and this code settle; `table` as in `identity`.

    `changed` names the settings that are not as shipped for its variant, `unlike_paper` those that are not what made the
    paper's table; None where it has no such table.
    """
    own, unlike_paper = config_diff(cfg, table=table), None
    if has_table(cfg.method.name, cfg.data.name):
        unlike_paper = own if cfg.variant == "released" else config_diff(cfg, "released")
    regression, has_body = learner.task.regression, learner.uses_backbone
    bn = cfg.backbone.get("bn", "none") if has_body else "none"
    return {
        "method": cfg.method.name,
        "variant": cfg.variant,
        "data": cfg.data.name,
        "trained_on": cfg.data.name,
        "split": "test",
        "shots": cfg.shots,
        "train_ways": 1 if regression else cfg.data.train_ways or cfg.data.ways,
        "train_shots": cfg.data.train_shots or cfg.shots,
        "val_shots": cfg.shots,
        "ways": 1 if regression else cfg.data.ways,
        "train_queries": cfg.data.train_queries,
        "test_queries": cfg.data.test_queries,
        "seed": cfg.seed,
        "backbone": "/".join(filter(None, (cfg.backbone.name, cfg.backbone.get("model"))))
        if has_body
        else "raw",
        "bn": bn,
        "train_bn": bn,
        "published_settings": unlike_paper == {},
        "config_diff": own,
        "differs_from_paper": unlike_paper,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "metric": learner.task.metric,
        "git_commit": git_commit(),  # as the run begins: a checkout may go on
    }


def scored(learner: MetaLearner) -> Scores:
    """The scores of the test just run.

    Raises:
        Diverged: a task's score is not finite, which a mean would hide or spread.
    """
    tasks, scores = learner.test_tasks.compute().long().view(-1), learner.test_scores.compute().view(-1)
    order = tasks.argsort()
    ordered = scores[order].tolist()
    for task, score in zip(tasks[order].tolist(), ordered, strict=True):
        if not math.isfinite(score):
            raise Diverged(f"the score of test task {task} was {score}")
    mean, ci95 = mean_and_ci95(ordered)
    of_tasks = learner.test_baselines.compute().view(-1)[order]
    floors = {baseline_name(learner.task): float(of_tasks.double().mean())}
    if not learner.task.regression:
        floors["chance"] = 100 / learner.task.outputs
    summary = {"mean": mean, "ci95": ci95, "tasks": len(ordered), "baselines": floors}
    return Scores(summary, tasks[order].tolist(), ordered, of_tasks.tolist())


def score_line(result: Mapping[str, Any]) -> str:
    """`64.0% ± 0.9 test accuracy (5-way 1-shot, 600 tasks, …)`: a score, its interval, its protocol, and the paper's.

    The paper's is shown beside its own protocol only, and as what it is, a mean of three runs.
    """
    if result.get("mean") is None:
        return f"no test score: {result['status']} ({result.get('reason', '')})"
    unit, digits = ("%", 2) if result["metric"] == "accuracy" else ("", 4)
    figure = paper_figure(result)
    beside = "" if figure is None else f"; paper, mean of 3 runs: {figure:.{digits}f}{unit}"
    floors = "".join(
        f"; {FLOORS.get(k, k)} {v:.{digits}f}{unit}" for k, v in result.get("baselines", {}).items()
    )
    interval = "" if result["ci95"] is None else f" ± {result['ci95']:.{digits}f}"
    return (
        f"{result['mean']:.{digits}f}{unit}{interval} test {result['metric']} "
        f"({Protocol.of(result)}, bn {result['bn']}{floors}{beside})"
    )


def title_of(result: Mapping[str, Any]) -> str:
    """What a picture of a result is headed with."""
    where = result["data"] + (
        f", trained on {result['trained_on']}" if result["trained_on"] != result["data"] else ""
    )
    return f"{result['method']} on {where}, {result['shots']}-shot, variant {result['variant']}, seed {result['seed']}"


def as_options(settings: Mapping[str, Any]) -> str:
    """As the command line takes them; of a group that was chosen anew, its name, and which model of a library."""
    anew = {k.removesuffix(".name") for k in settings if k.endswith(".name")}
    own = (".name", ".model", ".weights")
    told = {
        k: v
        for k, v in settings.items()
        if k.split(".")[0] not in anew or (k.endswith(own) and v is not None)
    }
    return " ".join(f"{k.removesuffix('.name')}={json.dumps(v)}" for k, v in told.items())


def show(result: Mapping[str, Any], folder: Path | None) -> None:
    """Prints a result and the place where it is kept, if it is."""
    name = f"{result['method']} on {result['data']}, variant {result['variant']}, seed {result['seed']}"
    own, unlike = result.get("config_diff", {}), result.get("differs_from_paper") or {}
    if own:
        name += ", " + as_options(own)
    if unlike not in ({}, own):
        print(f"unlike what made the paper's table: {as_options(unlike)}")
    if found := result.get("interpretability"):
        table, rows = Table("interpretability", ""), dict[str, list[str]]()
        for finding, share in found.items():
            where, _, what = finding.rpartition(": ")
            rows.setdefault(where, []).append(f"{what} {share:.3f}")
        for where, shares in rows.items():
            table.add_row(Text(where), Text(" · ".join(shares)))
        Console().print(table)
    for warning in result.get("warnings", []):
        Console().print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)
    place = "" if folder is None else f"\n{folder}"
    Console().print(Text.assemble((name, "bold"), f": {score_line(result)}{place}"), soft_wrap=True)
