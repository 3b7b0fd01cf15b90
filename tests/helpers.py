"""Short runs for the tests: their settings, small image folders, kills, and what a run logged."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from fewshot.config.compose import CONF, composed
from fewshot.config.run_id import run_folder
from fewshot.config.settings import check
from fewshot.report.jobs import Job, jobs
from fewshot.results.record import name_of_test
from fewshot.training import callbacks
from fewshot.training.run import run
from tests.made_files import fill_folder, picture

TINY = [
    *("trainer.max_steps=40", "trainer.val_check_interval=10", "trainer.save_every_n_steps=4"),
    *("trainer.num_val_tasks=30", "trainer.num_test_tasks=30", "trainer.eval_batch_size=12"),
    *("trainer.log_every_n_steps=5", "trainer.enable_progress_bar=false", "trainer.num_threads=1"),
    *("logger=csv", "method.meta_batch_size=2"),
]
MEASURED = ("train_seconds", "tasks_per_second", "peak_memory_bytes")


class Killed(BaseException):
    pass


def tables(tmp_path: Path) -> Path:
    """Where tests put prepared tables: glyphs take ten seconds, once a worker."""
    return tmp_path.parent / "tables"


def config(tmp_path: Path, *overrides: str, outputs: str = "outputs") -> DictConfig:
    """A short run of the LSTM on sine waves, or what `overrides` say, in `tmp_path`."""
    paths = [f"paths.outputs={tmp_path / outputs}", f"paths.prepared={tables(tmp_path)}"]
    cfg = composed(["data=sine", "method=lstm", *TINY, *paths, *overrides])
    check(cfg)
    return cfg


def evaluation(folder: Path, tmp_path: Path, **changes: Any) -> DictConfig:
    """The configuration of evaluate.py for a run."""
    settings = {"run": folder, "enable_progress_bar": False, "paths.prepared": tables(tmp_path)} | changes
    quoted = {k: f"'{v}'" if isinstance(v, str | Path) else v for k, v in settings.items()}
    return composed([f"{key}={value}" for key, value in quoted.items()], "evaluate")


def rows(path: Path) -> list[dict[str, str]]:
    """What metrics.csv holds."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def same(result: dict[str, Any]) -> dict[str, Any]:
    """What two equal runs have in common."""
    return {name: value for name, value in result.items() if name not in (*MEASURED, "git_commit")}


def images_of(tmp_path: Path, name: str = "images") -> list[str]:
    """Twelve classes of twenty small images, and settings for them."""
    files = {f"class{c}/{i}.png": picture(20 * c + i) for c in range(12) for i in range(20)}
    fill_folder(tmp_path / name, files)
    small = ["data=folder", f"data.path={tmp_path / name}", "backbone.widths=[4,4]", "data.size=8"]
    return [*small, "data.channels=1", "data.ways=2", "data.train_queries=3", "data.val_queries=3"]


def kill_at(step: int, cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains until an update, and leaves what a kill there would leave."""
    original = callbacks.TrainMetrics.on_train_batch_end

    def killing(self: Any, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == step:
            raise Killed
        original(self, trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TrainMetrics, "on_train_batch_end", killing)
        with pytest.raises(Killed):
            run(cfg)


def check_same(cfg: DictConfig, undisturbed: DictConfig) -> None:
    """That two runs, trained now unless they are finished, are the same bit for bit."""
    assert same(run(cfg)) == same(run(undisturbed))
    one, other = run_folder(cfg), run_folder(undisturbed)
    assert (one / "test_scores.csv").read_bytes() == (other / "test_scores.csv").read_bytes()
    assert rows(one / "metrics.csv") == rows(other / "metrics.csv")
    states = [torch.load(folder / "best.ckpt", weights_only=True) for folder in (one, other)]
    assert states[0]["global_step"] == states[1]["global_step"]
    assert all(torch.equal(w, states[1]["state_dict"][name]) for name, w in states[0]["state_dict"].items())


def command(cfg: DictConfig, *overrides: str) -> list[str]:
    """The command of a short run of the LSTM on sine waves, or with "-m" of several."""
    options = [word for word in overrides if word.startswith("-")]
    paths = [f"paths.{key}={cfg.paths[key]}" for key in ("outputs", "prepared")]
    settings = ["data=sine", "method=lstm", *TINY, *paths, *(o for o in overrides if o not in options)]
    return [sys.executable, str(CONF.parent / "train.py"), *options, *settings]


def wait_for(process: subprocess.Popen[str], seen: Callable[[], bool]) -> None:
    """Waits until something is there, or the process has ended."""
    while process.poll() is None and not seen():
        time.sleep(0.02)


def within(seconds: float, seen: Callable[[], bool]) -> bool:
    """Whether something is there in time."""
    end = time.monotonic() + seconds
    while not (found := seen()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def stored(cfg: DictConfig) -> dict[str, Any]:
    """A run's result.json."""
    result: dict[str, Any] = json.loads((run_folder(cfg) / "result.json").read_text())
    return result


def some(mean: float, seed: int, tasks: int = 2000) -> np.ndarray:
    """Scores of about this mean."""
    return np.random.default_rng(seed).gamma(2.0, mean / 2, tasks)


def write_scores(path: Path, scores: np.ndarray) -> None:
    pd.Series(scores, name="score").to_csv(path, index_label="task")


def store(job: Job, scores: np.ndarray | None = None, status: str = "finished", **other: Any) -> None:
    """A run's folder as train.py leaves it, as far as a report reads it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    result = job.tests[0] | {"status": status, "seed": job.cfg.seed, "bn": "none"}
    result |= {"parameters": 20201, "train_seconds": 90.0, "best_step": 7, "mean": None, "tasks": None}
    if scores is not None:
        result |= {"mean": scores.mean(), "ci95": 0.1, "tasks": len(scores)}
        result["best_validation"] = scores[:10].mean()
        write_scores(job.folder / "test_scores.csv", scores)
    (job.folder / "result.json").write_text(json.dumps(result | other))
    curve = [f"{t},{t},val/{result['metric']},{5 / (1 + t)}\n" for t in range(0, 5000, 1000)]
    (job.folder / "metrics.csv").write_text("tasks,step,metric,value\n" + "".join(curve))


def store_study(study: str, overrides: list[str], mean: float = 0.04, **other: Any) -> list[Job]:
    found = jobs(study, overrides)
    for job in found:
        store(job, some(mean, job.cfg.seed, job.cfg.trainer.num_test_tasks), **other)
    return found


def evaluated(job: Job, scores: np.ndarray, data: str | None = None, queries: int = 15, **other: Any) -> None:
    """What evaluate.py adds to a folder, as far as a report reads it."""
    result = json.loads((job.folder / "result.json").read_text()) | {"run_status": "finished"}
    result |= {"data": data or job.cfg.data.name, "test_queries": queries, "tasks": len(scores)}
    result |= {"mean": scores.mean()} | other
    folder = job.folder / "evaluations" / name_of_test(result)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
    write_scores(folder / "test_scores.csv", scores)
