"""A multirun on a real Slurm: a cell that meets its limit, one that is cancelled, and the right table at the end."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewshot.config.compose import CONF
from fewshot.training.run import run as train
from tests.conftest import Start
from tests.helpers import config
from tests.test_signals import without_times

ROOT = CONF.parent
HERE = shutil.which("sbatch") and subprocess.run(["sinfo"], capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not HERE, reason="needs a Slurm, as sbatch and a partition")
SHORT, LONG = 200, 6000
SMALL = [
    "trainer.num_val_tasks=20",
    "trainer.num_test_tasks=20",
    "trainer.num_threads=1",
    "trainer.enable_progress_bar=false",
    "logger=csv",
]
RUN = ["data=glyphs", "method=protonet", "trainer.val_check_interval=200", *SMALL]
SLURM = ["hydra/launcher=slurm", *(f"hydra.launcher.{setting}" for setting in (
    "gpus_per_node=null", "cpus_per_task=1", "mem_gb=4", "timeout_min=1", "signal_delay_s=5",
))]  # fmt: skip


def grid(folder: Path, *more: str) -> list[str]:
    paths = [f"paths.outputs={folder / 'outputs'}", f"paths.prepared={folder / 'prepared'}"]
    cells = [f"trainer.max_steps={SHORT},{LONG}", "seed=0,1"]
    return [sys.executable, str(ROOT / "train.py"), "-m", *SLURM, *RUN, *cells, *paths, *more]


def folder_of(outputs: Path, updates: int, seed: int) -> Path | None:
    for file in outputs.glob(f"glyphs/protonet/1-shot/seed{seed}-*/config.yaml"):
        if f"updates: {updates}\n" in file.read_text():
            return file.parent
    return None


def queue(job: str = "") -> list[tuple[str, str]]:
    """Job (array_task) and state of what is waiting or at work."""
    told = subprocess.run(
        ["squeue", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True, check=True
    ).stdout
    return [
        (name, state) for name, state in (line.split() for line in told.splitlines()) if name.startswith(job)
    ]


def hurry() -> None:
    """Slurm holds a job that is queued again for two minutes, which only a test cannot wait for."""
    for job, state in queue():
        if state == "PENDING":
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)


def test_a_limit_and_a_cancelled_job(tmp_path: Path, start: Start) -> None:
    outputs = tmp_path / "outputs"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = start(
        grid(tmp_path, "overwrite=true"), tmp_path, env=env, stdout=None
    )  # which is for a job's first part alone
    cancelled = False
    while process.poll() is None:
        time.sleep(1)
        hurry()
        long = folder_of(outputs, LONG, seed=1)
        if not cancelled and long and (long / "metrics.csv").exists():
            [job] = {job for job, state in queue() if job.endswith("_3")}
            subprocess.run(["scancel", job], check=True)
            cancelled = True
    err = process.stderr.read() if process.stderr else ""
    assert cancelled
    assert process.returncode == 143, err
    assert re.search(
        r"1 of 4 cells have no result:\n  trainer.max_steps=6000 seed=1: stopped, stopped by SIGTERM", err
    )
    assert "cells ━" in err
    assert "4/4" in err
    logs = {path: path.read_text() for path in (outputs / "multirun" / ".submitit").rglob("*_log.err")}
    [again] = [text for text in logs.values() if "goes on at update" in text]  # the cell that met its limit
    assert "stopped by SIGUSR2: the same command without overwrite=true goes on from update" in again
    assert sum("preparing glyphs" in text for text in logs.values()) == 1
    assert not any("Traceback" in text for text in logs.values())
    assert len(list(outputs.rglob("result.json"))) == 3

    second = start(
        grid(tmp_path), tmp_path, env=env, stdout=None
    )  # what was cancelled goes on, the others are there
    while second.poll() is None:
        time.sleep(1)
        hurry()
    err = second.stderr.read() if second.stderr else ""
    assert second.returncode == 0, err
    assert "have no result" not in err
    undisturbed = config(
        tmp_path, *RUN, f"trainer.max_steps={LONG}", "method.meta_batch_size=4", outputs="undisturbed"
    )
    result = train(undisturbed)
    found = folder_of(outputs, LONG, seed=0)
    assert found
    assert without_times(json.loads((found / "result.json").read_text())) == without_times(result)
    assert queue() == []
