"""A multirun on a real Slurm: a job that meets its time limit, and one that is cancelled."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from fewshot.config.compose import CONF
from fewshot.config.run_id import run_folder
from fewshot.training import jobs
from tests.conftest import Start
from tests.helpers import check_same, command, config

AVAILABLE = shutil.which("sbatch") and subprocess.run(["sinfo"], capture_output=True).returncode == 0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.skipif(not AVAILABLE, reason="needs Slurm: sbatch and a partition"),
]
LONG = ["trainer.max_steps=24000", "trainer.val_check_interval=8000"]  # longer than the limit of a minute
LONG += ["trainer.save_every_n_steps=1000", "trainer.log_every_n_steps=1000"]
LAUNCHER = ["gpus_per_node=null", "cpus_per_task=1", "mem_gb=4", "timeout_min=1", "signal_delay_s=5"]


def queue() -> dict[str, str]:
    """Job_task → state of what waits or runs."""
    found = subprocess.run(["squeue", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True, check=True)
    return dict(line.split() for line in found.stdout.splitlines())


def run_multirun(
    tmp_path: Path, start: Start, *overrides: str, cancel: Path | None = None
) -> tuple[int, str]:
    """Runs two long jobs, and cancels the second one once `cancel` exists; the exit code and stderr."""
    launcher = ["hydra/launcher=slurm", *(f"hydra.launcher.{setting}" for setting in LAUNCHER)]
    multirun = command(config(tmp_path), "-m", *launcher, *LONG, "seed=0,1", *overrides)
    with (tmp_path / "stderr").open("w") as file:
        process = start(
            multirun, tmp_path, env=os.environ | {"PYTHONPATH": str(CONF.parent)}, stdout=file, stderr=file
        )
        while process.poll() is None:
            time.sleep(1)
            for job, state in queue().items():
                if state == "PENDING":  # Slurm holds a job for two minutes before it runs again
                    arguments = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
                    subprocess.run(arguments, capture_output=True)
                elif cancel and cancel.exists() and job.endswith("_1"):
                    subprocess.run(["scancel", job], check=True)
                    cancel = None
    return process.returncode, (tmp_path / "stderr").read_text()


def ends(tmp_path: Path) -> pd.DataFrame:
    """How the jobs of the last multirun ended."""
    return jobs.read(max((tmp_path / "outputs" / "multirun").glob("20*"))).sort_values("job")


def test_a_time_limit_and_a_cancelled_job(tmp_path: Path, start: Start) -> None:
    at_limit, cancelled = (config(tmp_path, *LONG, f"seed={seed}") for seed in (0, 1))
    code, err = run_multirun(
        tmp_path, start, "overwrite=true", cancel=run_folder(cancelled) / "metrics.csv"
    )  # which holds for the first part of a job alone
    assert code == 143, err
    assert "Traceback" not in err
    assert [status.partition(":")[0] for status in ends(tmp_path).status] == ["finished", "stopped"]
    assert "stopped: stopped by SIGTERM" in " ".join(err.split())
    paths = (tmp_path / "outputs" / "multirun").rglob(".submitit/*/*_log.err")
    logs = [path.read_text() for path in paths]
    [log] = [log for log in logs if "resumes at update" in log]
    assert "stopped by SIGUSR2: the same command without overwrite=true resumes from update" in log
    assert not any("Traceback" in log for log in logs)
    assert not (run_folder(cancelled) / "result.json").exists()

    code, err = run_multirun(tmp_path, start)
    assert code == 0, err
    assert list(ends(tmp_path).status) == ["finished", "finished"]
    check_same(at_limit, config(tmp_path, *LONG, "seed=0", outputs="undisturbed"))
    assert queue() == {}
