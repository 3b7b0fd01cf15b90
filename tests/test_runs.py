"""Whole runs: results, resumption, further tests."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Timer

from fewshot.config.run_id import run_folder
from fewshot.errors import Diverged, UserError
from fewshot.methods import PlainLSTM, ProtoNet
from fewshot.results.record import half_width
from fewshot.training import run as run_module
from fewshot.training.callbacks import Checkpoints
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run
from tests.conftest import OPTIONS
from tests.helpers import check_same, config, evaluation, images_of, kill_at, rows, same, stored
from tests.made_files import fill_folder, picture

pytestmark = pytest.mark.usefixtures("undrawn")

PROTONET = ["method=protonet", "trainer.max_steps=10"]
FIELDS = """warnings status method variant data shots ways test_queries seed backbone bn train_bn parameters
metric mean ci95 tasks best_step best_validation train_tasks train_seconds tasks_per_second peak_memory_bytes
device devices precision tf32 threads versions git_commit"""


def trained_at(cfg):
    """When a run was trained."""
    return (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns


def test_a_result_holds_everything(finished):
    cfg = config(finished)
    result, folder = run(cfg), run_folder(cfg)
    assert stored(cfg) == result
    assert result["status"] == "finished"
    assert set(FIELDS.split()) <= set(result)
    assert (result["precision"], result["tf32"]) == ("32-true", False)
    scores = pd.read_csv(folder / "test_scores.csv")
    assert scores["task"].tolist() == list(range(30))
    values = scores["score"].to_numpy()
    assert (values.mean(), half_width(values)) == (result["mean"], result["ci95"])
    logged = [row for row in rows(folder / "metrics.csv") if row["metric"] == "val/mse"]
    assert [(int(r["tasks"]), int(r["step"])) for r in logged] == [(2 * s, s) for s in (0, 10, 20, 30, 40)]
    others = {row["metric"]: float(row["value"]) for row in rows(folder / "metrics.csv")}
    assert others["train/gradient_norm"] > 0
    best = min(logged, key=lambda r: float(r["value"]))
    assert result["best_step"] * 2 == int(best["tasks"])
    assert result["best_validation"] == pytest.approx(float(best["value"]))


@pytest.mark.parametrize("step", [3, 4, 10, 21, 39])
def test_a_killed_run_resumes_to_the_same_result(step, finished, tmp_path, monkeypatch):
    """Also where it has been moved, and the kill has torn a row of its metrics."""
    kill_at(step, config(tmp_path, outputs="killed"), monkeypatch)
    (tmp_path / "killed").rename(tmp_path / "moved")
    moved = config(tmp_path, outputs="moved")
    with (run_folder(moved) / "metrics.csv").open("a") as file:
        file.write("80,4")
    check_same(moved, config(finished))
    assert not (tmp_path / "killed").exists()


@pytest.mark.parametrize("method", [method for method, options in OPTIONS.items() if "lr" in options])
def test_every_learner_resumes_to_the_same_result(method, tmp_path, monkeypatch):
    small = [*images_of(tmp_path), f"method={method}", "trainer.max_steps=12", "trainer.val_check_interval=4"]
    small += ["trainer.num_val_tasks=4"] + ["method.hidden=[16,8]"] * (method == "lstm")
    small += ["backbone=fc"] * (method == "warp_oplstm")  # it has no adapted layers on Conv-4
    killed = config(tmp_path, *small, outputs="killed")
    kill_at(9, killed, monkeypatch)
    check_same(killed, config(tmp_path, *small))


def test_random_numbers_resume(tmp_path):
    """Those of dropout, of backbones that have it."""
    saves = [Checkpoints(tmp_path, config(tmp_path), Timer()) for _ in range(2)]
    state = saves[0].state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(5)
    saves[1].load_state_dict(state)
    assert torch.equal(torch.rand(3), drawn)


def test_a_finished_run_is_shown_not_repeated(copied, tmp_path, capfd):
    first, stamp = stored(copied), trained_at(copied)
    assert run(copied) == first
    out, err = capfd.readouterr()
    assert "already finished" in err
    assert "test mse" in out
    assert trained_at(copied) == stamp
    (tmp_path / "scratch").mkdir()
    (run_folder(copied) / "wandb").symlink_to(tmp_path / "scratch")
    assert same(run(config(tmp_path, "overwrite=true"))) == same(first)
    assert trained_at(copied) != stamp
    assert (tmp_path / "scratch").is_dir()  # a link is removed, not what it leads to
    assert not (run_folder(copied) / "wandb").exists()


def test_a_slurm_job_that_was_requeued_does_not_overwrite_its_own_run(copied, tmp_path, monkeypatch):
    for job, restarts, overwrites in (("7", "0", True), ("7", "1", False), ("8", "1", True)):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        stamp = trained_at(copied)
        run(config(tmp_path, "overwrite=true"))
        assert (trained_at(copied) != stamp) == overwrites


def test_what_does_not_change_a_score_does_not_change_the_folder(tmp_path):
    same = ("trainer.max_time=00:00:01:00", "logger=none", "trainer.save_every_n_steps=7", "overwrite=true")
    assert len({run_folder(config(tmp_path, o)) for o in ("seed=0", *same)}) == 1
    different = ("method.lr=0.1", "variant=paper", "seed=1", "trainer.max_steps=41", "shots=2")
    different += ("trainer.num_val_tasks=31", "trainer.gradient_clip_val=1.0")
    assert len({run_folder(config(tmp_path, o)) for o in ("seed=0", *different)}) == 1 + len(different)


def test_the_untrained_state_may_be_the_best(tmp_path):
    cfg = config(tmp_path, "method.lr=30.0")
    result = run(cfg)
    first = next(r for r in rows(run_folder(cfg) / "metrics.csv") if r["metric"] == "val/mse")
    assert (result["best_step"], result["best_validation"]) == (0, pytest.approx(float(first["value"])))


def test_training_with_more_ways_than_the_test(tmp_path):
    cfg = config(tmp_path, *images_of(tmp_path), *PROTONET, "data.train_ways=4")
    result = run(cfg)
    assert (result["train_ways"], result["ways"], result["config_diff"]["data.train_ways"]) == (4, 2, 4)
    assert result["baselines"]["chance"] == 50
    best = ProtoNet.load_from_checkpoint(run_folder(cfg) / "best.ckpt", weights_only=True)
    assert (best.task.outputs, best.task.train_outputs) == (2, 4)
    assert (best.train().outputs, best.eval().outputs) == (4, 2)


def test_no_class_that_was_trained_on_is_tested(tmp_path):
    """Where the classes are split otherwise than before, a run neither resumes nor is tested."""
    of_lightning = "+trainer.limit_predict_batches=1"  # which conf/ does not list
    small = [*images_of(tmp_path), *PROTONET, "data.test_queries=3", of_lightning]
    fill_folder(tmp_path / "images", {f"few/{i}.png": picture(241 + i) for i in range(2)})
    cfg = config(tmp_path, *small)
    first, folder = run(cfg), run_folder(cfg)
    (folder / "result.json").unlink()
    assert run(cfg)["mean"] == first["mean"]
    split = json.loads((folder / "split.json").read_text())
    assert split["left_out"] == {"train": [], "val": [], "test": ["few"]}
    split["val"][0], split["test"][1] = split["test"][1], split["val"][0]
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "result.json").unlink()
    for function, again in ((run, cfg), (evaluate, evaluation(folder, tmp_path))):
        with pytest.raises(UserError, match="changed since it began"):
            function(again)


def test_a_micro_batch(tmp_path, monkeypatch):
    sizes, predict = [], PlainLSTM.predict
    monkeypatch.setattr(PlainLSTM, "predict", lambda self, e: sizes.append(len(e.tasks)) or predict(self, e))
    run(config(tmp_path, "trainer.micro_batch_size=1"))
    assert sizes.count(1) == 80  # 40 updates of two tasks


def test_further_tests(tmp_path, monkeypatch, capsys):
    """They are made once, after training or later; one without a score leaves the others."""
    run_test, tested = run_module.run_test, []

    def diverge_on_the_first(folder, trained, further):
        tested.append(Path(further.data.path).name)
        if tested[-1] == "first":
            raise Diverged("it is not finite")
        return run_test(folder, trained, further)

    monkeypatch.setattr(run_module, "run_test", diverge_on_the_first)
    for name in ("first", "second"):
        images_of(tmp_path, name)
    small = [*images_of(tmp_path), *PROTONET]
    further = config(tmp_path, *small, f"data.test=['{tmp_path / 'first'}','{tmp_path / 'second'}']")
    result = run(config(tmp_path, *small))
    for _ in range(2):
        assert run(further) == result  # trained already
    assert tested == ["first", "second", "first"]
    assert "it is not finite" in capsys.readouterr().err
    [path] = run_folder(further).glob("evaluations/*/result.json")
    test = json.loads(path.read_text())
    assert path.parent.name.startswith("folder-second-")
    assert (test["tasks"], test["test_queries"], test["best_step"]) == (30, 15, result["best_step"])
    with pytest.raises(UserError, match="nowhere"):  # before training
        run(config(tmp_path, *small, f"data.test=[{tmp_path / 'nowhere'}]", "seed=1"))
