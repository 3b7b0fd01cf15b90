"""A run shared by two processes: the steps and scores of one; a lost process ends the run, which resumes."""

import os
import signal
import subprocess
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from fewshot.config.run_id import run_folder
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.sine import SineSource
from fewshot.errors import LostProcess
from fewshot.training import distributed
from fewshot.training.build import assemble
from fewshot.training.run import run
from tests.helpers import check_same, command, config, images_of, wait_for, within

LONG = ["trainer.max_steps=400", "trainer.val_check_interval=200", "trainer.save_every_n_steps=20"]
LONG += ["trainer.num_val_tasks=21", "trainer.devices=2"]
QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
METHODS = ("lstm", "oplstm", "maml", "protonet", "warpmaml", "sap")


def movement(method, devices, tmp_path):
    """How 20 updates move a learner's weights, in float64, where the size of a gradient matters."""
    data = ["data=sine"] if method in ("lstm", "oplstm") else images_of(tmp_path, f"images{os.getpid()}")
    settings = [*data, f"method={method}", "shots=5", "method.meta_batch_size=4"]
    settings += ["method.grad_clip_each=false"] * (method == "maml")
    datamodule, learner, _ = assemble(config(tmp_path, *settings), tmp_path)
    learner.double().configure_optimizers = lambda: torch.optim.SGD(learner.parameters(), lr=1e-3)
    before = parameters_to_vector(learner.parameters()).detach().clone()
    own = dict.fromkeys(QUIET, False) | distributed.strategy_settings(devices)
    trainer = L.Trainer(accelerator="cpu", max_steps=20, precision="64-true", limit_val_batches=0, **own)
    trainer.fit(learner, datamodule=datamodule)
    return parameters_to_vector(learner.parameters()).detach() - before


def save_movements(devices, tmp_path):
    found = {method: movement(method, devices, tmp_path) for method in METHODS}
    if "LOCAL_RANK" not in os.environ:
        torch.save(found, tmp_path / str(devices))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_processes_take_the_steps_of_one(tmp_path):
    for devices in (1, 2):
        with distributed.processes(devices, save_movements, devices, tmp_path):
            save_movements(devices, tmp_path)
    one, two = (torch.load(tmp_path / str(devices), weights_only=True) for devices in (1, 2))
    for method in METHODS:
        assert (two[method] - one[method]).norm() < 1e-6 * one[method].norm(), method


@pytest.mark.parametrize(("total", "batch", "ranks"), [(600, 20, 2), (41, 20, 3), (7, 1, 2), (3, 20, 3)])
def test_every_task_of_a_validation_is_in_one_share(total, batch, ranks):
    seen, lengths = [], []
    for rank in range(ranks):
        stream = EpisodicDataModule(SineSource(0, 1), 5, ranks, 1, num_val_tasks=total).streams["val"]
        stream.batch, stream.rank, stream.ranks = batch * ranks, rank, ranks
        batches = [episode.tasks for episode in stream]
        assert all(0 < len(tasks) <= batch for tasks in batches)
        seen += batches
        lengths.append(len(batches))
        assert len(batches) == len(stream)
    assert sorted(torch.cat(seen).tolist()) == list(range(total))
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("ranks", "done"), [(1, 5), (2, 5), (3, 5), (2, 0)])
def test_every_task_of_later_epochs_is_new(ranks, done):
    """Also when a run resumes within an epoch, on another number of devices."""
    seen = []
    for rank in range(ranks):
        stream = EpisodicDataModule(SineSource(0, 1), 5, 6, 4).streams["train"]
        stream.rank, stream.ranks = rank, ranks
        stream.load_state_dict({"next": done})
        seen += [episode.tasks for _ in range(2) for episode in stream]
    assert sorted(torch.cat(seen).tolist()) == list(range(6 * done, 6 * (done + 8)))


def fail(how):
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("there is no such thing")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [("killed", LostProcess, "signal SIGKILL"), ("fails", Exception, "ValueError: there is no such thing")],
)
def test_a_process_that_ends_is_reported(how, error, message):
    def connection_lost():
        with distributed.processes(2, fail, how) as others:
            others.processes[0].join(60)
            raise RuntimeError("Connection closed by peer")

    with pytest.raises(error, match=message):
        connection_lost()


@pytest.mark.slow
def test_a_run_that_loses_a_process_resumes(tmp_path, start):
    """Also after a signal; the scores are those of one process, up to the rounding of sums."""
    two, one = config(tmp_path, *LONG), config(tmp_path, *LONG, "trainer.devices=1", outputs="one")
    last, saved = run_folder(two) / "last.ckpt", 0
    for how, code in (("other", 1), ("first", -signal.SIGKILL), ("signal", 128 + signal.SIGTERM)):
        process = start(command(two, *LONG), tmp_path)
        wait_for(process, lambda: last.exists() and last.stat().st_mtime_ns > saved)  # noqa: B023
        ps = ["ps", "-wwo", "pid=,args=", "--ppid", str(process.pid)]
        children = subprocess.run(ps, capture_output=True, text=True).stdout.splitlines()
        [other] = [int(line.split()[0]) for line in children if "spawn_main" in line]
        number = signal.SIGTERM if how == "signal" else signal.SIGKILL
        os.kill(other if how == "other" else process.pid, number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "Traceback" not in out + err
        assert ("a process of the run was lost" in err) == (how == "other")
        assert within(20, lambda: not Path(f"/proc/{other}").exists())  # noqa: B023
        saved = last.stat().st_mtime_ns
    assert "stopped by SIGTERM: the same command resumes from update" in err
    check_same(two, config(tmp_path, *LONG, outputs="undisturbed"))
    assert (run(two)["devices"], run(one)["devices"]) == (2, 1)
    for file in ("test_scores.csv", "metrics.csv"):
        found, expected = (pd.read_csv(run_folder(cfg) / file) for cfg in (two, one))
        pd.testing.assert_frame_equal(found, expected, rtol=2e-2)
