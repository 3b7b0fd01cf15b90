"""A multirun on a real Slurm: a job that meets its time limit, and one that is cancelled."""

import os
import shutil
import subprocess
import time

import pytest

from fewshot.cli import read_jobs
from fewshot.config.compose import CONF
from fewshot.config.run_id import run_folder
from tests.helpers import check_same, command, config

AVAILABLE = shutil.which("sbatch") and subprocess.run(["sinfo"], capture_output=True).returncode == 0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.skipif(not AVAILABLE, reason="needs Slurm: sbatch and a partition"),
]
LONG = ["trainer.max_steps=40000", "trainer.val_check_interval=8000"]  # longer than the limit of a minute
LONG += ["trainer.save_every_n_steps=1000", "trainer.log_every_n_steps=1000", "trainer.compile=false"]
LAUNCHER = ["gpus_per_node=null", "cpus_per_task=1", "mem_gb=4", "timeout_min=1", "signal_delay_s=5"]


def queue():
    """Job_task → state of what waits or runs."""
    found = subprocess.run(["squeue", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True, check=True)
    return dict(line.split() for line in found.stdout.splitlines())


def run_multirun(tmp_path, start, *overrides, cancel=None):
    """Runs two long jobs, and cancels the second once `cancel` exists: exit code, stderr, the jobs' ends."""
    launcher = ["hydra/launcher=slurm", *(f"hydra.launcher.{setting}" for setting in LAUNCHER)]
    multirun = command(config(tmp_path), "-m", *launcher, *LONG, "seed=0,1", *overrides)
    with (tmp_path / "stderr").open("w") as file:
        env = os.environ | {"PYTHONPATH": str(CONF.parent)}
        process = start(multirun, tmp_path, env=env, stdout=file, stderr=file)
        while process.poll() is None:
            time.sleep(1)
            for job, state in queue().items():
                if state == "PENDING":  # Slurm holds a job for two minutes before it runs again
                    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"])
                elif cancel and cancel.exists() and job.endswith("_1"):
                    subprocess.run(["scancel", job], check=True)
                    cancel = None
    table = read_jobs(max((tmp_path / "outputs" / "multirun").glob("20*"))).sort_values("job")
    return process.returncode, (tmp_path / "stderr").read_text(), list(table.status)


def test_a_time_limit_and_a_cancelled_job(tmp_path, start):
    at_limit, cancelled = (run_folder(config(tmp_path, *LONG, f"seed={seed}")) for seed in (0, 1))
    code, err, ends = run_multirun(tmp_path, start, "overwrite=true", cancel=cancelled / "metrics.csv")
    assert code == 143, err
    assert "Traceback" not in err
    assert ends[0] == "finished"
    assert ends[1].startswith("stopped: stopped by SIGTERM")
    logs = (tmp_path / "outputs" / "multirun").rglob(".submitit/*/*_log.err")
    [log] = [text for path in logs if "resumes at update" in (text := path.read_text())]
    assert "stopped by SIGUSR2: the same command without overwrite=true resumes from update" in log
    assert "Traceback" not in log
    assert (at_limit / "result.json").exists()
    assert not (cancelled / "result.json").exists()

    code, err, ends = run_multirun(tmp_path, start)
    assert (code, ends) == (0, ["finished", "finished"]), err
    check_same(config(tmp_path, *LONG), config(tmp_path, *LONG, outputs="undisturbed"))
    assert queue() == {}
