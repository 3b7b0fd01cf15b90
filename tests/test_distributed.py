"""A run shared by two processes: the steps, scores and files of one; what ends one of them ends the run, resumable."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from benchmarks.cases import random_images
from fewshot.config.checks import check
from fewshot.config.compose import CONF, composed
from fewshot.config.run_id import run_folder
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.sine import SineSource
from fewshot.errors import LostProcess, UserError
from fewshot.training import distributed
from fewshot.training.build import make_datamodule, make_learner, make_source, set_threads
from fewshot.training.run import run as train
from tests.conftest import Start
from tests.helpers import TINY, config, rows
from tests.test_signals import wait_for

METHODS = ("lstm", "maml", "oplstm", "protonet", "warpmaml", "sap")
UPDATES = 20
LONG = [
    "trainer.max_steps=400",
    "trainer.val_check_interval=200",
    "trainer.save_every_n_steps=20",
    "trainer.num_val_tasks=21",
    "trainer.enable_progress_bar=false",
]


def moved(method: str, devices: int) -> torch.Tensor:
    """How some updates of 4 tasks move a learner's weights, in float64, by an optimiser that sees a gradient's size."""
    data = "sine" if method in ("lstm", "oplstm") else "omniglot"
    own = ["method.grad_clip_each=false"] if method == "maml" else []
    cfg = composed([f"data={data}", f"method={method}", "shots=5", *own])
    if data == "omniglot":
        cfg.data.size = 8
    cfg.method.meta_batch_size, cfg.trainer.max_steps = 4, UPDATES
    source = make_source(cfg) if data == "sine" else random_images(cfg)
    L.seed_everything(0, verbose=False)
    learner = make_learner(cfg, source.task).double()
    learner.configure_optimizers = lambda: torch.optim.SGD(learner.parameters(), lr=1e-3)  # type: ignore[method-assign]
    before = parameters_to_vector(learner.parameters()).detach().clone()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=UPDATES,
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[distributed.SumGradients()] if devices > 1 else [],
        **distributed.settings(devices),
    )
    trainer.fit(learner, datamodule=make_datamodule(cfg, source))
    return parameters_to_vector(learner.parameters()).detach() - before


def all_learners(devices: int, kept: Path) -> None:
    set_threads(1)
    found = {method: moved(method, devices) for method in METHODS}
    if distributed.is_first():
        torch.save(found, kept)


def with_others(ready: Callable[[], None], devices: int, kept: Path) -> None:
    ready()
    all_learners(devices, kept)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    for devices in (1, 2):
        with distributed.together(devices, with_others, devices, tmp_path / str(devices)):
            all_learners(devices, tmp_path / str(devices))
    one, two = (torch.load(tmp_path / str(devices), weights_only=True) for devices in (1, 2))
    for method in METHODS:
        assert (two[method] - one[method]).norm() < 1e-6 * one[method].norm(), method


@pytest.mark.parametrize(
    ("total", "batch", "ranks"), [(600, 20, 2), (21, 20, 2), (41, 20, 3), (7, 1, 2), (3, 20, 3)]
)
def test_the_shares_of_a_stream_are_disjoint_and_whole(total: int, batch: int, ranks: int) -> None:
    seen, lengths = [], []
    for rank in range(ranks):
        datamodule = EpisodicDataModule(
            SineSource(0, 1), 5, ranks, 1, num_val_tasks=total, eval_batch_size=batch
        )
        device = SimpleNamespace(root_device=torch.device("cpu"))
        datamodule.trainer = SimpleNamespace(strategy=device, global_rank=rank, world_size=ranks)  # type: ignore[assignment]
        stream = datamodule.val_dataloader()
        assert datamodule.val_dataloader() is stream
        batches = list(stream)
        assert all(0 < len(episode.tasks) <= batch for episode in batches)
        assert len(batches) == len(stream)
        lengths.append(len(batches))
        seen += torch.cat([episode.tasks for episode in batches]).tolist()
    assert sorted(seen) == list(range(total))
    assert max(lengths) - min(lengths) <= 1


def test_the_shares_of_later_epochs_are_new_tasks() -> None:
    """Resumed within an epoch as well, by another number of processes."""
    for processes, done in ((1, 5), (2, 5), (3, 5), (2, 0)):
        seen = []
        for rank in range(processes):
            stream = EpisodicDataModule(SineSource(0, 1), 5, 6, 4).streams["train"]
            stream.rank, stream.ranks = rank, processes
            stream.load_state_dict({"next": done})
            seen += [episode.tasks for _ in range(2) for episode in stream]
        assert sorted(torch.cat(seen).tolist()) == list(range(6 * done, 6 * 4 * (done // 4 + 2)))


def scores(folder: Path) -> Any:
    return np.loadtxt(folder / "test_scores.csv", delimiter=",", skiprows=1)


def close_files(shared: Path, alone: Path) -> None:
    """Equal up to how float32 sums are rounded; every task of a test once."""
    found, wanted = scores(shared), scores(alone)
    assert found[:, 0].tolist() == wanted[:, 0].tolist()
    np.testing.assert_allclose(found, wanted, rtol=2e-2)
    logged, expected = rows(shared / "metrics.csv"), rows(alone / "metrics.csv")
    assert [row["metric"] for row in logged] == [row["metric"] for row in expected]
    np.testing.assert_allclose(*([float(row["value"]) for row in of] for of in (logged, expected)), rtol=2e-2)


def command(tmp_path: Path, devices: int) -> list[str]:
    cfg = config(tmp_path, *LONG, outputs="shared")
    paths = [f"paths.{key}={cfg.paths[key]}" for key in ("outputs", "prepared")]
    program = [sys.executable, str(CONF.parent / "train.py"), "data=sine", "method=lstm"]
    return [*program, *TINY, *LONG, *paths, f"trainer.devices={devices}"]


def of_run(process: subprocess.Popen[str]) -> list[int]:
    """The further processes of a run."""
    told = subprocess.run(
        ["ps", "-wwo", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in told.stdout.splitlines() if "spawn_main" in line]


def dies(ready: Callable[[], None], how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fails":
        raise ValueError("there is no such thing")
    ready()
    raise ValueError("later")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("killed", "process 1 of 2 has gone"),
        ("fails", "process 1 of 2 failed: ValueError: there is no such thing"),
        ("later", "process 1 of 2 failed: ValueError: later"),
    ],
)
def test_a_process_that_dies_is_not_waited_for(
    how: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LostProcess, match=re.escape(told)), distributed.together(2, dies, how):
        raise RuntimeError("Connection closed by peer")
    assert "Traceback" not in capfd.readouterr().err
    assert "LOCAL_RANK" not in os.environ


def test_what_is_wrong_with_all_processes_is_said() -> None:
    with pytest.raises(ValueError, match="of all"), distributed.together(2, dies, "later"):
        raise ValueError("of all")


def test_a_lost_process_ends_the_run_which_another_number_goes_on_with(tmp_path: Path, start: Start) -> None:
    shared, alone = config(tmp_path, *LONG, "trainer.devices=2", outputs="shared"), config(tmp_path, *LONG)
    folder = run_folder(shared)
    process = start(command(tmp_path, 2), tmp_path)
    wait_for(process, lambda: (folder / "last.ckpt").exists())
    [other] = of_run(process)
    os.kill(other, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "process 1 of 2 has gone: the same command goes on" in out + err
    assert "Traceback" not in out + err

    process = start(command(tmp_path, 1), tmp_path)  # one alone goes on, and is stopped
    wait_for(process, lambda: (folder / "metrics.csv").exists() and len(rows(folder / "metrics.csv")) > 20)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert re.search(r"goes on at update \d+ of 400", err)

    result, wanted = train(shared), train(alone)
    assert result["status"] == "finished"
    assert (result["devices"], wanted["devices"]) == (2, 1)
    assert result["train_tasks"] == wanted["train_tasks"]
    close_files(folder, run_folder(alone))
    assert not torch.distributed.is_initialized()
    assert "LOCAL_RANK" not in os.environ


def test_a_signal_ends_all_processes_of_a_run_after_a_save(tmp_path: Path, start: Start) -> None:
    folder = run_folder(config(tmp_path, *LONG, outputs="shared"))
    process = start(command(tmp_path, 2), tmp_path)
    wait_for(process, lambda: (folder / "last.ckpt").exists())
    [other] = of_run(process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert re.search(r"stopped by SIGTERM: the same command goes on from update \d+ of 400", err)
    assert "Traceback" not in out + err
    assert not Path(f"/proc/{other}").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("method=lstm data=sine trainer.devices=3", "cannot share method.meta_batch_size=4 equally"),
        ("method=maml data=sine shots=5 trainer.devices=2", "grad_clip_each=true"),
        (
            "method=oplstm data=omniglot trainer.devices=2 trainer.similarity=paper",
            "is measured on one device",
        ),
        (
            "method=protonet data=omniglot trainer.devices=2 trainer.num_val_tasks=1",
            "is fewer than trainer.devices=2",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(settings: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        check(composed([*settings.split(), "shots=5", "logger=csv"]))
