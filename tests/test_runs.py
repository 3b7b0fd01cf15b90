"""Whole runs: results, resumption, timeouts, divergence, locks."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig

from fewshot.config.compose import CONF, composed
from fewshot.config.run_id import config_diff, run_folder
from fewshot.episodes import SPLITS, Episode
from fewshot.errors import Diverged, OutOfTime, UserError
from fewshot.methods import PlainLSTM, ProtoNet
from fewshot.results.statistics import mean_and_ci95
from fewshot.training import build
from fewshot.training import run as run_module
from fewshot.training.checkpoints import LastCheckpoint
from fewshot.training.run import run
from tests.conftest import Start
from tests.helpers import TINY, config, images_of, kill_at, rows, same
from tests.made_files import fill_folder, picture

pytestmark = pytest.mark.usefixtures("composed_once", "undrawn")

FIELDS = (
    *("warnings", "status", "method", "variant", "data", "shots", "ways", "test_queries", "seed", "backbone"),
    *("bn", "train_bn", "parameters", "metric", "mean", "ci95", "tasks", "best_step", "best_validation"),
    *("train_tasks", "train_seconds", "tasks_per_second", "peak_memory_bytes", "device", "devices"),
    *("precision", "tf32", "threads", "versions", "git_commit"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: a folder whose `outputs` may be read, and copied to be changed."""
    place = tmp_path_factory.mktemp("finished")
    run(config(place))
    return place


def copied(finished: Path, tmp_path: Path) -> tuple[DictConfig, dict[str, Any]]:
    """The finished run in a place of its own, and its result."""
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    cfg = config(tmp_path)
    return cfg, json.loads((run_folder(cfg) / "result.json").read_text())


def test_a_result_holds_everything(finished: Path) -> None:
    cfg = config(finished)
    result, folder = run(cfg), run_folder(cfg)
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["status"] == "finished"
    assert set(FIELDS) <= set(result)
    assert (result["precision"], result["tf32"]) == ("32-true", False)
    with (folder / "test_scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert [int(row["task"]) for row in scores] == list(range(30))
    assert mean_and_ci95([float(row["score"]) for row in scores]) == (result["mean"], result["ci95"])
    logged = [row for row in rows(folder / "metrics.csv") if row["metric"] == "val/mse"]
    assert [(int(r["tasks"]), int(r["step"])) for r in logged] == [(2 * s, s) for s in (0, 10, 20, 30, 40)]
    best = min(logged, key=lambda r: float(r["value"]))
    assert result["best_step"] * 2 == int(best["tasks"])
    assert result["best_validation"] == pytest.approx(float(best["value"]))


@pytest.mark.parametrize("step", [3, 4, 10, 21, 39])
def test_a_killed_run_resumes_to_the_same_result(
    step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resumes(step, config(finished), config(tmp_path), monkeypatch)


@pytest.mark.parametrize("method", ["lstm", "maml", "oplstm", "protonet", "sap", "warpmaml"])
def test_every_learner_resumes_to_the_same_result(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [*images_of(tmp_path), f"method={method}", "trainer.max_steps=12", "trainer.val_check_interval=4"]
    small += ["trainer.num_val_tasks=4"] + ["method.hidden=[16,8]"] * (method == "lstm")
    killed = config(tmp_path, *small, outputs="killed")
    check_resumes(9, config(tmp_path, *small), killed, monkeypatch)


def check_resumes(step: int, whole: DictConfig, killed: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run(whole)
    kill_at(step, killed, monkeypatch)
    assert same(run(killed)) == same(undisturbed)
    folder, first = run_folder(killed), run_folder(whole)
    assert folder.name == first.name
    assert (folder / "test_scores.csv").read_text() == (first / "test_scores.csv").read_text()
    assert rows(folder / "metrics.csv") == rows(first / "metrics.csv")


def test_a_moved_run_resumes_and_leaves_its_old_place_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = config(tmp_path, outputs="moved")
    kill_at(39, config(tmp_path, outputs="killed"), monkeypatch)
    (tmp_path / "killed").rename(tmp_path / "moved")
    with (run_folder(moved) / "metrics.csv").open("a") as file:
        file.write("80,4")  # a row torn by the kill
    assert same(run(moved)) == same(run(config(finished)))
    assert rows(run_folder(moved) / "metrics.csv") == rows(run_folder(config(finished)) / "metrics.csv")
    assert not (tmp_path / "killed").exists()


@pytest.mark.slow
def test_kill_minus_nine(tmp_path: Path, start: Start) -> None:
    undisturbed = run(config(tmp_path, "trainer.max_steps=150"))
    cfg = config(tmp_path, "trainer.max_steps=150", outputs="killed")
    paths = [f"paths.outputs={cfg.paths.outputs}", f"paths.prepared={cfg.paths.prepared}"]
    program = str(CONF.parent / "train.py")
    command = [sys.executable, program, "data=sine", "method=lstm", *TINY, *paths, "trainer.max_steps=150"]
    process = start(command, tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = run_folder(cfg) / "metrics.csv"
    while process.poll() is None and not (metrics.exists() and len(rows(metrics)) > 12):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (run_folder(cfg) / "result.json").exists()
    result = run(cfg)
    for name in ("mean", "ci95", "best_step", "best_validation"):
        assert result[name] == undisturbed[name]


def test_random_numbers_resume(tmp_path: Path) -> None:
    """Those of dropout, of backbones that have it."""
    saves = [LastCheckpoint(tmp_path, config(tmp_path), Timer()) for _ in range(2)]
    state = saves[0].state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(5)
    saves[1].load_state_dict(state)
    assert torch.equal(torch.rand(3), drawn)


def test_a_finished_run_is_shown_not_repeated(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg, first = copied(finished, tmp_path)
    stamp = (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns
    assert run(cfg) == first
    out, err = capfd.readouterr()
    assert "already finished" in err
    assert "test mse" in out
    assert (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns == stamp
    (tmp_path / "scratch").mkdir()
    (run_folder(cfg) / "wandb").symlink_to(tmp_path / "scratch")
    assert same(run(config(tmp_path, "overwrite=true"))) == same(first)
    assert (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns != stamp
    assert (tmp_path / "scratch").is_dir()  # a link is removed, not what it leads to
    assert not (run_folder(cfg) / "wandb").exists()


def test_a_slurm_job_that_was_requeued_does_not_overwrite_its_own_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, _ = copied(finished, tmp_path)

    def overwrites(job: str, restarts: str) -> bool:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        before = (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns
        run(config(tmp_path, "overwrite=true"))
        return (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns != before

    assert overwrites("7", "0")
    assert not overwrites("7", "1")
    assert overwrites("8", "1")  # its first part did not get so far


def test_what_does_not_change_a_score_does_not_change_the_folder(tmp_path: Path) -> None:
    same = ("trainer.max_time=00:00:01:00", "logger=none", "trainer.save_every_n_steps=7", "overwrite=true")
    assert len({run_folder(config(tmp_path, o)) for o in ("seed=0", *same)}) == 1
    different = ("method.lr=0.1", "variant=paper", "seed=1", "trainer.max_steps=41", "shots=2")
    different += ("trainer.num_val_tasks=31", "trainer.gradient_clip_val=1.0")
    assert len({run_folder(config(tmp_path, o)) for o in ("seed=0", *different)}) == 1 + len(different)


def test_published_settings_have_no_diff(tmp_path: Path) -> None:
    assert config_diff(composed(["data=omniglot", "method=oplstm"])) == {}
    assert config_diff(composed(["data=omniglot", "method=oplstm", "data.test_queries=15", "seed=3"])) == {}
    assert config_diff(composed(["data=omniglot", "method=oplstm", "method.lr=0.1"])) == {"method.lr": 0.1}
    assert config_diff(composed(["data=omniglot", "backbone=conv4"]))["backbone.name"] == "conv4"
    assert config_diff(config(tmp_path))["trainer.max_steps"] == 40


def test_a_timeout_leaves_a_state_to_resume_from(tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_time=00:00:00:01", "trainer.max_steps=1000000")
    with pytest.raises(OutOfTime, match="max_time=00:00:00:01 is over"):
        run(cfg)
    result = json.loads((run_folder(cfg) / "result.json").read_text())
    assert (result["status"], result["mean"]) == ("timeout", None)
    assert 0 < result["train_tasks"] < 2_000_000
    assert (run_folder(cfg) / "last.ckpt").exists()


WILD = ["method=maml", "method.inner_steps=1", "method.eval_inner_steps=200", "method.inner_lr=1e30"]


@pytest.mark.parametrize("data", ["sine", "images"])
def test_predictions_that_are_not_finite_have_no_score(data: str, tmp_path: Path) -> None:
    chosen = images_of(tmp_path) if data == "images" else ["method.grad_clip=null"]
    cfg = config(tmp_path, *chosen, *WILD)
    with pytest.raises(Diverged, match=r"val/\w+ was nan after update 0"):
        run(cfg)
    result = json.loads((run_folder(cfg) / "result.json").read_text())
    assert (result["status"], result["mean"]) == ("diverged", None)


def test_a_loss_that_is_nan_keeps_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_learner = build.make_learner

    def spoiled(*args: Any) -> Any:
        learner = make_learner(*args)
        original = learner.training_step

        def step(episode: Episode, batch_idx: int) -> dict[str, torch.Tensor]:
            made = original(episode, batch_idx)
            return made | {"loss": made["loss"] * (float("nan") if learner.global_step > 22 else 1)}

        learner.training_step = step
        return learner

    monkeypatch.setattr(build, "make_learner", spoiled)
    cfg = config(tmp_path)
    with pytest.raises(Diverged, match="not finite after update 24"):
        run(cfg)
    for name in ("best.ckpt", "last.ckpt"):
        state = torch.load(run_folder(cfg) / name, weights_only=True)
        assert state["global_step"] <= 22
        assert all(torch.isfinite(t).all() for t in state["state_dict"].values())


def test_the_untrained_state_may_be_the_best(tmp_path: Path) -> None:
    cfg = config(tmp_path, "method.lr=30.0")
    result = run(cfg)
    first = next(r for r in rows(run_folder(cfg) / "metrics.csv") if r["metric"] == "val/mse")
    assert (result["best_step"], result["best_validation"]) == (0, pytest.approx(float(first["value"])))


def test_training_with_more_ways_than_the_test(tmp_path: Path) -> None:
    small = [*images_of(tmp_path), "method=protonet", "trainer.max_steps=10"]
    cfg = config(tmp_path, *small, "data.train_ways=4")
    result = run(cfg)
    assert (result["train_ways"], result["ways"], result["config_diff"]["data.train_ways"]) == (4, 2, 4)
    assert result["baselines"]["chance"] == 50
    best = ProtoNet.load_from_checkpoint(run_folder(cfg) / "best.ckpt", weights_only=True)
    assert (best.task.outputs, best.task.train_outputs) == (2, 4)
    assert (best.train().outputs, best.eval().outputs) == (4, 2)
    with pytest.raises(UserError, match=r"train_ways=4: MAML has one output per class of a test task"):
        run(config(tmp_path, *images_of(tmp_path), "method=maml", "data.train_ways=4"))


def test_a_run_does_not_resume_with_other_classes(tmp_path: Path) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    first, folder = run(cfg), run_folder(cfg)
    (folder / "result.json").unlink()
    assert run(cfg)["mean"] == first["mean"]
    split = json.loads((folder / "split.json").read_text())
    split["val"][0], split["test"][1] = split["test"][1], split["val"][0]
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="data have changed since it began: 2 classes differ"):
        run(cfg)


def test_classes_with_too_few_images_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [*images_of(tmp_path), "method=protonet", "trainer.max_steps=10", "data.test_queries=3"]
    files = {f"rare{c}/{i}.png": picture(241 + 2 * c + i) for c in range(6) for i in range(2)}
    rows = [f"class{c}/{i}.png,class{c},{SPLITS[c % 3]}" for c in range(12) for i in range(20)]
    rows += [f"rare{c}/{i}.png,rare{c},{SPLITS[c % 3]}" for c in range(6) for i in range(2)]
    files["all.csv"] = "\n".join(["filename,label,split", *rows]).encode()
    fill_folder(tmp_path / "images", files)
    cfg = config(tmp_path, *small)
    run(cfg)
    said = capsys.readouterr().err
    kept = json.loads((run_folder(cfg) / "split.json").read_text())
    rare = {part: [name for name, count in kept[part] if count == 2] for part in ("train", "val", "test")}
    assert kept["left_out"] == rare
    for part in rare:
        assert f"2 of 6 {part} classes have fewer than" in said
    folder = run_folder(cfg)
    fill_folder(tmp_path / "images", {"rare0/9.png": picture(3)})
    assert run_folder(config(tmp_path, *small)) != folder  # other data, another run


@pytest.mark.parametrize("damage", ["garbage", "another method", "no best state"])
def test_a_state_that_cannot_be_loaded_is_one_error(
    damage: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cfg, first), other = copied(finished, tmp_path), config(tmp_path, "method=oplstm")
    folder = run_folder(cfg)
    (folder / "result.json").unlink()
    if damage == "garbage":
        (folder / "last.ckpt").write_bytes(b"garbage")
    elif damage == "another method":
        kill_at(39, other, monkeypatch)
        shutil.copyfile(run_folder(other) / "last.ckpt", folder / "last.ckpt")
    else:
        (folder / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"(best|last)\.ckpt cannot be loaded"):
        run(cfg)
    assert run(config(tmp_path, "overwrite=true"))["mean"] == first["mean"]


def test_a_second_process_is_an_error(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    run_folder(cfg).mkdir(parents=True)
    with FileLock(run_folder(cfg) / ".lock"), pytest.raises(UserError, match="another process"):
        run(cfg)


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot read or write a file"):
        run(config(tmp_path, outputs="file"))


def test_a_device_that_is_not_there_loses_no_result(finished: Path, tmp_path: Path) -> None:
    cfg, first = copied(finished, tmp_path)
    with pytest.raises(UserError, match="no such accelerator"):
        run(config(tmp_path, "trainer.accelerator=mps", "overwrite=true"))
    assert run(cfg) == first


def test_a_micro_batch_is_the_same_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, predict = [], PlainLSTM.predict
    monkeypatch.setattr(PlainLSTM, "predict", lambda self, e: sizes.append(len(e.tasks)) or predict(self, e))
    parts = config(tmp_path, "trainer.micro_batch_size=1")
    assert run_folder(parts).name == run_folder(config(finished)).name
    result, whole = run(parts), run(config(finished))
    assert sizes.count(1) == 80  # 40 updates of two tasks
    assert result["mean"] == pytest.approx(whole["mean"], rel=1e-3)
    with pytest.raises(UserError, match=r"grad_clip_each=true allows no trainer\.micro_batch_size"):
        config(tmp_path, "method=maml", "trainer.micro_batch_size=1")


def test_a_run_prints_validations_and_where_it_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tmp_path)
    kill_at(29, cfg, monkeypatch)
    run(cfg)
    err = capfd.readouterr().err
    assert "update 0 of 40: val/mse " in err
    assert "resumes at update 28 of 40" in err
    assert "update 40 of 40: val/mse " in err


def test_a_method_without_published_settings(tmp_path: Path) -> None:
    own = ["method=warpmaml", "method.lr=0.001", "method.inner_lr=0.01", "method.inner_steps=2"]
    result = run(config(tmp_path, *own, "method.last_loss=false", "trainer.max_steps=10"))
    assert result["config_diff"].items() >= {"method.lr": 0.001, "method.inner_steps": 2}.items()


def test_further_tests(tmp_path: Path) -> None:
    images_of(tmp_path, "other")
    small = [*images_of(tmp_path), "method=protonet", "trainer.max_steps=10"]
    further = f"data.test=['{tmp_path / 'other'}']"
    run(config(tmp_path, *small))
    result = run(config(tmp_path, *small, further))  # trained already
    [(name, entry)] = result["tests"].items()
    assert name.startswith("folder-other-")
    assert (entry["tasks"], entry["test_queries"]) == (30, 15)
    assert run(config(tmp_path, *small, further)) == result
    with pytest.raises(UserError, match="nowhere does not exist"):
        run(config(tmp_path, *small, "data.test=[nowhere]", "seed=1"))


def test_a_further_test_without_a_score_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images_of(tmp_path, "first")
    images_of(tmp_path, "second")
    small = [*images_of(tmp_path), "method=protonet", "trainer.max_steps=10"]
    further = f"data.test=['{tmp_path / 'first'}','{tmp_path / 'second'}']"
    evaluate_on = run_module.evaluate_on

    def diverge_on_the_first(folder: Path, trained: DictConfig, tested: DictConfig, **options: Any) -> Any:
        if "first" in str(tested.data.path):
            raise Diverged("a score is not finite")
        return evaluate_on(folder, trained, tested, **options)

    monkeypatch.setattr(run_module, "evaluate_on", diverge_on_the_first)
    result = run(config(tmp_path, *small, further))
    [name] = result["tests"]
    assert name.startswith("folder-second-")
    assert "a score is not finite" in capsys.readouterr().err


def test_interval_of_known_scores() -> None:
    mean, half = mean_and_ci95([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(3.182446305284263 * (5 / 3) ** 0.5 / 2)
