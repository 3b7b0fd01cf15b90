"""Runs that fail: out of time, not finite, damaged, in use or on a device that is not there."""

import shutil
from unittest.mock import MagicMock

import pytest
import torch
from filelock import FileLock

from fewshot.config.run_id import run_folder
from fewshot.errors import Diverged, OutOfTime, UserError
from fewshot.methods import PlainLSTM
from fewshot.training import evaluate
from fewshot.training.run import run
from tests.helpers import config, images_of, kill_at, stored

pytestmark = pytest.mark.usefixtures("undrawn")


WILD = ["method=maml", "method.inner_steps=1", "method.eval_inner_steps=200", "method.inner_lr=1e30"]


def test_a_timeout_leaves_a_state_to_resume_from(tmp_path):
    long = ["trainer.max_steps=1000000", "trainer.compile=false"]
    cfg = config(tmp_path, "trainer.max_time=00:00:00:01", *long)
    with pytest.raises(OutOfTime, match="max_time=00:00:00:01 is over"):
        run(cfg)
    assert (stored(cfg)["status"], stored(cfg)["mean"]) == ("timeout", None)
    assert 0 < stored(cfg)["train_tasks"] < 2_000_000
    assert (run_folder(cfg) / "last.ckpt").exists()


@pytest.mark.parametrize("data", ["sine", "images"])
def test_predictions_that_are_not_finite_have_no_score(data, tmp_path):
    chosen = images_of(tmp_path) if data == "images" else ["method.grad_clip=null"]
    cfg = config(tmp_path, *chosen, *WILD)
    for _ in range(2):  # trained, then shown
        with pytest.raises(Diverged, match=r"val/\w+ was nan after update 0"):
            run(cfg)
    assert (stored(cfg)["status"], stored(cfg)["mean"]) == ("diverged", None)


def test_a_test_that_is_not_finite_has_no_score(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "scored", MagicMock(side_effect=Diverged("the score of task 0 was nan")))
    cfg = config(tmp_path)
    with pytest.raises(Diverged, match="the score of task 0 was nan"):
        run(cfg)
    assert not (run_folder(cfg) / "result.json").exists()


def test_a_loss_that_is_nan_keeps_the_last_good_state(tmp_path, monkeypatch):
    training_step = PlainLSTM.training_step

    def step(self, episode, batch_idx):
        made = training_step(self, episode, batch_idx)
        return made | {"loss": made["loss"] * (float("nan") if self.global_step > 22 else 1)}

    monkeypatch.setattr(PlainLSTM, "training_step", step)
    cfg = config(tmp_path)
    with pytest.raises(Diverged, match="not finite after update 24"):
        run(cfg)
    for name in ("best.ckpt", "last.ckpt"):
        state = torch.load(run_folder(cfg) / name, weights_only=True)
        assert state["global_step"] <= 22
        assert all(torch.isfinite(t).all() for t in state["state_dict"].values())


@pytest.mark.parametrize("damage", ["garbage", "another method", "no best state"])
def test_a_state_that_cannot_be_loaded_is_one_error(damage, copied, tmp_path, monkeypatch):
    first, other, folder = stored(copied), config(tmp_path, "method=oplstm"), run_folder(copied)
    (folder / "result.json").unlink()
    if damage == "garbage":
        (folder / "last.ckpt").write_bytes(b"garbage")
    elif damage == "another method":
        kill_at(39, other, monkeypatch)
        shutil.copyfile(run_folder(other) / "last.ckpt", folder / "last.ckpt")
    else:
        (folder / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"(best|last)\.ckpt cannot be loaded"):
        run(copied)
    assert run(config(tmp_path, "overwrite=true"))["mean"] == first["mean"]


def test_a_second_process_is_an_error(tmp_path):
    cfg = config(tmp_path)
    run_folder(cfg).mkdir(parents=True)
    with FileLock(run_folder(cfg) / ".lock"), pytest.raises(UserError, match="another process"):
        run(cfg)


def test_a_device_that_is_not_there_loses_no_result(copied, tmp_path):
    first = stored(copied)
    with pytest.raises(UserError, match="MPSAccelerator"):
        run(config(tmp_path, "trainer.accelerator=mps", "overwrite=true"))
    assert run(copied) == first
