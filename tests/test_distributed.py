"""A run shared by two processes: the steps, scores and files of one; a lost process ends the run, which resumes."""

import multiprocessing
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
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
from tests.conftest import Start
from tests.helpers import check_same, command, config, images_of, rows, wait_for

LONG = ["trainer.max_steps=400", "trainer.val_check_interval=200", "trainer.save_every_n_steps=20"]
LONG += ["trainer.num_val_tasks=21"]
CASES = {  # two on sine waves, the others on images
    "lstm": ["data=sine", "shots=5"],
    "oplstm": ["data=sine", "shots=5"],
    "maml": ["method.grad_clip_each=false"],
    "protonet": [],
    "warpmaml": [],
    "sap": [],
}


def movement(method: str, devices: int, tmp_path: Path) -> torch.Tensor:
    """How 20 updates move a learner's weights, in float64, by an optimiser that depends on a gradient's size."""
    data = [] if "data=sine" in CASES[method] else images_of(tmp_path, f"images{os.getpid()}")
    settings = [*data, *CASES[method], f"method={method}", "method.meta_batch_size=4"]
    datamodule, learner = assemble(config(tmp_path, *settings))
    learner.double().configure_optimizers = lambda: torch.optim.SGD(learner.parameters(), lr=1e-3)
    before = parameters_to_vector(learner.parameters()).detach().clone()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=20,
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[distributed.SumGradients()] if devices > 1 else [],
        **distributed.strategy_settings(devices),
    )
    trainer.fit(learner, datamodule=datamodule)
    return parameters_to_vector(learner.parameters()).detach() - before


def save_movements(devices: int, tmp_path: Path) -> None:
    found = {method: movement(method, devices, tmp_path) for method in CASES}
    if distributed.is_first():
        torch.save(found, tmp_path / str(devices))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    for devices in (1, 2):
        with distributed.processes(devices, save_movements, devices, tmp_path):
            save_movements(devices, tmp_path)
    one, two = (torch.load(tmp_path / str(devices), weights_only=True) for devices in (1, 2))
    for method in CASES:
        assert (two[method] - one[method]).norm() < 1e-6 * one[method].norm(), method


@pytest.mark.parametrize(
    ("total", "batch", "ranks"), [(600, 20, 2), (21, 20, 2), (41, 20, 3), (7, 1, 2), (3, 20, 3)]
)
def test_every_task_of_a_validation_is_in_one_share(total: int, batch: int, ranks: int) -> None:
    seen, lengths = [], []
    for rank in range(ranks):
        source, sizes = SineSource(0, 1), {"num_val_tasks": total, "eval_batch_size": batch}
        datamodule = EpisodicDataModule(source, 5, ranks, 1, **sizes)
        device: Any = SimpleNamespace(root_device=torch.device("cpu"))
        datamodule.trainer = SimpleNamespace(strategy=device, global_rank=rank, world_size=ranks)
        batches = list(datamodule.val_dataloader())
        assert all(0 < len(episode.tasks) <= batch for episode in batches)
        lengths.append(len(batches))
        seen += torch.cat([episode.tasks for episode in batches]).tolist()
    assert sorted(seen) == list(range(total))
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("ranks", "done"), [(1, 5), (2, 5), (3, 5), (2, 0)])
def test_every_task_of_later_epochs_is_new(ranks: int, done: int) -> None:
    """Also when a run resumes within an epoch, on another number of devices."""
    seen = []
    for rank in range(ranks):
        stream = EpisodicDataModule(SineSource(0, 1), 5, 6, 4).streams["train"]
        stream.rank, stream.ranks = rank, ranks
        stream.load_state_dict({"next": done})
        seen += [episode.tasks for _ in range(2) for episode in stream]
    assert sorted(torch.cat(seen).tolist()) == list(range(6 * done, 6 * 4 * (done // 4 + 2)))


def fail(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("there is no such thing")


@pytest.mark.slow
@pytest.mark.parametrize(("how", "error"), [("killed", LostProcess), ("fails", Exception)])
def test_a_process_that_ends_is_reported(how: str, error: type[Exception]) -> None:
    message = "terminated with signal SIGKILL" if how == "killed" else "ValueError: there is no such thing"
    with pytest.raises(error, match=message), distributed.processes(2, fail, how):
        multiprocessing.active_children()[0].join(60)
        raise RuntimeError("Connection closed by peer")
    assert "LOCAL_RANK" not in os.environ


@pytest.mark.slow
def test_a_run_that_loses_a_process_resumes(tmp_path: Path, start: Start) -> None:
    """Also after a signal; the scores are those of one process, up to the rounding of sums."""
    two, one = config(tmp_path, *LONG, "trainer.devices=2", outputs="two"), config(tmp_path, *LONG)
    folder = run_folder(two)
    for how, code in (("other", 1), ("first", -signal.SIGKILL), ("signal", 128 + signal.SIGTERM)):
        saved = (folder / "last.ckpt").stat().st_mtime_ns if how != "other" else 0
        process = start(command(two, *LONG, "trainer.devices=2"), tmp_path)
        last = folder / "last.ckpt"
        wait_for(process, lambda: last.exists() and last.stat().st_mtime_ns > saved)  # noqa: B023
        args = ["ps", "-wwo", "pid=,args=", "--ppid", str(process.pid)]
        found = subprocess.run(args, capture_output=True, text=True).stdout
        [other] = [int(line.split()[0]) for line in found.splitlines() if "spawn_main" in line]
        number = signal.SIGTERM if how == "signal" else signal.SIGKILL
        os.kill(other if how == "other" else process.pid, number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "Traceback" not in out + err
        assert ("a process of the run was lost" in err) == (how == "other")
        for _ in range(100):
            if Path(f"/proc/{other}").exists():
                time.sleep(0.2)
        assert not Path(f"/proc/{other}").exists()
    assert re.search(r"stopped by SIGTERM: the same command resumes from update \d+ of 400", err)

    check_same(two, config(tmp_path, *LONG, "trainer.devices=2", outputs="undisturbed"))
    result, wanted = run(two), run(one)
    assert (result["devices"], wanted["devices"]) == (2, 1)
    found, expected = (
        np.loadtxt(run_folder(cfg) / "test_scores.csv", delimiter=",", skiprows=1) for cfg in (two, one)
    )
    np.testing.assert_allclose(found, expected, rtol=2e-2)
    logged, wanted = rows(folder / "metrics.csv"), rows(run_folder(one) / "metrics.csv")
    assert [row["metric"] for row in logged] == [row["metric"] for row in wanted]
    values = ([float(row["value"]) for row in of] for of in (logged, wanted))
    np.testing.assert_allclose(*values, rtol=2e-2)
    assert "LOCAL_RANK" not in os.environ
