"""Whole runs: results, resumption, timeouts, divergence, locks, evaluation of one's own and a stranger's folder."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from filelock import FileLock
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig

from fewshot.cli import run_train
from fewshot.config.checks import check
from fewshot.config.compose import CONF, composed
from fewshot.config.eval_config import trained_and_tested
from fewshot.config.run_id import config_diff, run_folder
from fewshot.config.settings import SHARED
from fewshot.episodes import SPLITS, Episode, Task
from fewshot.errors import UserError
from fewshot.methods.protonet import ProtoNet
from fewshot.plots.curves import learning_curve
from fewshot.report import load
from fewshot.results.record import Scores, as_overrides, score_line
from fewshot.results.statistics import mean_and_ci95
from fewshot.training import callbacks, prepare
from fewshot.training.build import make_learner
from fewshot.training.callbacks import LastCheckpoint, ProgressBar
from fewshot.training.evaluate import evaluate
from fewshot.training.evaluate import test as run_test
from fewshot.training.loggers import start_wandb
from fewshot.training.train import train
from tests.conftest import Start, tables
from tests.made_files import fill_folder, picture

pytestmark = pytest.mark.usefixtures("composed_once", "undrawn")

TINY = [
    "trainer.max_steps=40",
    "trainer.val_check_interval=10",
    "trainer.num_val_tasks=30",
    "trainer.num_test_tasks=30",
    "trainer.eval_batch_size=12",
    "trainer.save_every_n_steps=4",
    "trainer.log_every_n_steps=5",
    "trainer.enable_progress_bar=false",
    "trainer.num_threads=1",
    "logger=csv",
    "method.meta_batch_size=2",
]
FIELDS = [
    "warnings",
    "status",
    "method",
    "variant",
    "data",
    "split",
    "shots",
    "ways",
    "train_queries",
    "test_queries",
    "seed",
    "backbone",
    "bn",
    "train_bn",
    "parameters",
    "metric",
    "mean",
    "ci95",
    "tasks",
    "best_step",
    "best_validation",
    "train_tasks",
    "train_seconds",
    "tasks_per_second",
    "peak_memory_bytes",
    "device",
    "devices",
    "precision",
    "tf32",
    "threads",
    "versions",
    "git_commit",
]
MEASURED = ("train_seconds", "tasks_per_second", "peak_memory_bytes")


def config(tmp_path: Path, *overrides: str, outputs: str = "outputs") -> DictConfig:
    paths = [f"paths.outputs={tmp_path / outputs}", f"paths.prepared={tables(tmp_path)}"]
    cfg = composed(["data=sine", "method=lstm", *TINY, *paths, *overrides])
    check(cfg)
    return cfg


@pytest.fixture(scope="module")
def outputs_of_ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as it ends undisturbed and as a kill at update 39 leaves it: outputs to copy."""
    place = tmp_path_factory.mktemp("ends")
    with pytest.MonkeyPatch.context() as patch:
        train(config(place, outputs="finished"))
        kill_at(39, config(place, outputs="killed"), patch)
    return place


def copied(outputs_of_ends: Path, how: str, tmp_path: Path) -> tuple[DictConfig, float]:
    """A run that ended so, here, and the score of the undisturbed one."""
    shutil.copytree(outputs_of_ends / how, tmp_path / "outputs")
    result = json.loads((run_folder(config(outputs_of_ends, outputs="finished")) / "result.json").read_text())
    return config(tmp_path), result["mean"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if "per_second" not in row["metric"]]


def test_a_result_holds_everything(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    result = train(cfg)
    folder = run_folder(cfg)
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["status"] == "finished"
    assert set(FIELDS) <= set(result)
    assert (result["precision"], result["tf32"]) == ("32-true", False)
    with (folder / "test_scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert [int(row["task"]) for row in scores] == list(range(30))
    mean, ci95 = mean_and_ci95([float(row["score"]) for row in scores])
    assert (mean, ci95) == (result["mean"], result["ci95"])
    logged = [r for r in rows(folder / "metrics.csv") if r["metric"] == "val/mse"]
    assert [(int(r["tasks"]), int(r["step"])) for r in logged] == [(2 * s, s) for s in (0, 10, 20, 30, 40)]
    best = min(logged, key=lambda r: float(r["value"]))
    assert result["best_step"] * 2 == int(best["tasks"])
    assert result["best_validation"] == pytest.approx(float(best["value"]))
    assert not any(character in str(folder.relative_to(tmp_path)) for character in "=, ")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", [3, 4, 10, 21, 39])
def test_a_killed_run_goes_on_to_the_same_result(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resumes(step, tmp_path, monkeypatch)


@pytest.mark.parametrize("method", ["lstm", "maml", "oplstm", "protonet", "sap", "warpmaml"])
def test_every_learner_goes_on_to_the_same_result(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"class{c}/{i}.png": picture(20 * c + i) for c in range(12) for i in range(20)}
    fill_folder(tmp_path / "images", files)
    small = ["data=folder", f"data.path={tmp_path / 'images'}", f"method={method}", "backbone.widths=[4,4]"]
    small += ["data.size=8", "data.channels=1", "data.ways=2", "data.train_queries=3", "data.val_queries=3"]
    small += ["trainer.max_steps=12", "trainer.val_check_interval=4", "trainer.num_val_tasks=4"]
    small += ["method.hidden=[16,8]"] if method == "lstm" else []
    check_resumes(9, tmp_path, monkeypatch, *small)


def check_resumes(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    undisturbed = train(config(tmp_path, *overrides))
    cfg = config(tmp_path, *overrides, outputs="killed")
    kill_at(step, cfg, monkeypatch)
    result = train(cfg)
    assert {k: v for k, v in result.items() if k not in MEASURED} == {
        k: v for k, v in undisturbed.items() if k not in MEASURED
    }
    folder, first = run_folder(cfg), run_folder(config(tmp_path, *overrides))
    assert folder.name == first.name
    assert (folder / "test_scores.csv").read_text() == (first / "test_scores.csv").read_text()
    assert rows(folder / "metrics.csv") == rows(first / "metrics.csv")


def kill_at(step: int, cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = callbacks.TrainMetrics.on_train_batch_end

    def killing(self: Any, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == step:
            raise Killed
        original(self, trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TrainMetrics, "on_train_batch_end", killing)
        with pytest.raises(Killed):
            train(cfg)


def test_a_moved_run_goes_on_and_leaves_its_old_place_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(config(tmp_path))
    cfg, moved = config(tmp_path, outputs="killed"), config(tmp_path, outputs="moved")
    kill_at(39, cfg, monkeypatch)
    (tmp_path / "killed").rename(tmp_path / "moved")
    with (run_folder(moved) / "metrics.csv").open("a") as file:
        file.write("80,4")  # a row torn by the kill
    result = train(moved)
    assert {k: v for k, v in result.items() if k not in MEASURED} == {
        k: v for k, v in undisturbed.items() if k not in MEASURED
    }
    assert rows(run_folder(moved) / "metrics.csv") == rows(run_folder(config(tmp_path)) / "metrics.csv")
    assert not (tmp_path / "killed").exists()


def test_one_test_task_has_no_interval(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = train(config(tmp_path, "trainer.num_test_tasks=1", "trainer.max_steps=10"))
    assert result["ci95"] is None
    assert "±" not in capfd.readouterr().out


def test_the_untrained_state_may_be_the_best(tmp_path: Path) -> None:
    cfg = config(tmp_path, "method.lr=30")
    result = train(cfg)
    first = next(r for r in rows(run_folder(cfg) / "metrics.csv") if r["metric"] == "val/mse")
    assert (result["best_step"], result["best_validation"]) == (0, pytest.approx(float(first["value"])))


def test_a_score_that_is_not_finite_has_no_mean(tmp_path: Path) -> None:
    wild = [
        "method=maml",
        "method.inner_steps=1",
        "method.eval_inner_steps=200",
        "method.inner_lr=5",
        "method.grad_clip=null",
    ]
    cfg = config(tmp_path, *wild, "method.first_order=true", "method.lr=1e-6")
    result = train(cfg)
    assert (result["status"], result["mean"]) == ("diverged", None)
    assert result["reason"] == "val/mse was nan after update 0"
    assert json.loads((run_folder(cfg) / "result.json").read_text()) == result


def images_of(tmp_path: Path, name: str = "images") -> list[str]:
    """Twelve classes of twenty small images, and settings for them."""
    files = {f"class{c}/{i}.png": picture(20 * c + i) for c in range(12) for i in range(20)}
    fill_folder(tmp_path / name, files)
    small = [
        "data=folder",
        f"data.path={tmp_path / name}",
        "backbone.widths=[4,4]",
        "data.size=8",
        "data.channels=1",
    ]
    return [*small, "data.ways=2", "data.train_queries=3", "data.val_queries=3"]


def test_training_with_more_ways_than_the_test(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = config(
        tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10", "data.train_ways=4"
    )
    result = train(cfg)
    assert (result["train_ways"], result["ways"], result["config_diff"]["data.train_ways"]) == (4, 2, 4)
    assert result["baselines"]["chance"] == 50
    assert "data.train_ways=4" in capfd.readouterr().out
    best = ProtoNet.load_from_checkpoint(run_folder(cfg) / "best.ckpt", weights_only=True)
    assert (best.task.outputs, best.task.train_outputs) == (2, 4)
    assert (best.train().outputs, best.eval().outputs) == (4, 2)
    assert (
        best.train().scores(torch.eye(2)[None], torch.tensor([[0, 1]])) == 100
    )  # of test tasks, after training
    own = evaluate(evaluation(run_folder(cfg), tmp_path))
    assert (own["mean"], own["ways"], own["train_ways"]) == (pytest.approx(result["mean"], rel=1e-6), 2, 4)
    plain = train(config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10"))
    assert (plain["train_ways"], "data.train_ways" in plain["config_diff"]) == (2, False)


@pytest.mark.parametrize("method", ["oplstm", "lstm", "maml", "sap", "warpmaml"])
def test_a_head_has_one_number_of_ways(method: str) -> None:
    small = ["data=glyphs", f"method={method}", "logger=csv"]
    with pytest.raises(UserError, match=rf"^data.train_ways=30: method={method} .* choose method=protonet$"):
        check(composed([*small, "data.train_ways=30", "method.lr=1e-3"]))
    cfg = composed(small)
    with pytest.raises(UserError, match=r"^train_ways=30: \w+ .* choose ProtoNet$"):
        make_learner(cfg, Task((1, 28, 28), 5, regression=False, train_outputs=30))


def test_predictions_that_are_not_finite_are_no_guesses(tmp_path: Path) -> None:
    wild = ["method=maml", "method.inner_steps=1", "method.eval_inner_steps=60", "method.inner_lr=1e30"]
    result = train(config(tmp_path, *images_of(tmp_path), *wild))
    assert (result["status"], result["mean"]) == ("diverged", None)
    assert result["reason"] == "val/accuracy was nan after update 0"


def test_weights_that_are_not_finite_have_no_score(tmp_path: Path) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    train(cfg)
    best = run_folder(cfg) / "best.ckpt"
    state = torch.load(best, weights_only=True)
    state["state_dict"]["body.0.weight"][0] = float("nan")
    torch.save(state, best)
    told = evaluate(evaluation(run_folder(cfg), tmp_path))
    assert (told["status"], told["reason"]) == ("diverged", "the score of test task 0 was nan")  # exit code 1
    assert not (run_folder(cfg) / "evaluations").exists()


@pytest.mark.parametrize("ways", [0, 1])
def test_a_folder_that_has_grown_is_not_the_runs_own(ways: int, tmp_path: Path) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    train(cfg)
    folder = run_folder(cfg)
    split = json.loads((folder / "split.json").read_text())
    assert {name: len(split[name]) for name in SPLITS} == {"train": 8, "val": 2, "test": 2}
    assert evaluate(evaluation(folder, tmp_path))["tasks"] == 30
    files = {f"another{ways}/{i}.png": picture(241 + i) for i in range(14)}
    files |= {f"more{ways}/{i}.png": picture(241 + i, side=9) for i in range(14)}
    fill_folder(tmp_path / "images", files)
    with pytest.raises(UserError, match="the run's data have changed since it began: class "):
        evaluate(evaluation(folder, tmp_path))
    (folder / "result.json").unlink()
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="does not exist"):
        train(cfg)


def test_a_run_on_a_long_tail_keeps_its_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes with too few images are left out; images added to one make another run."""
    overrides = [*images_of(tmp_path), "method=protonet", "trainer.max_steps=10", "data.test_queries=3"]
    rows = [
        f"{name}{c},{('train', 'val', 'test')[c % 3]}"
        for name, n in (("class", 12), ("rare", 6))
        for c in range(n)
    ]
    files = {f"rare{c}/{i}.png": picture(241 + 2 * c + i) for c in range(6) for i in range(2)}
    fill_folder(tmp_path / "images", files | {"split.csv": "\n".join(["class,split", *rows]).encode()})
    cfg = config(tmp_path, *overrides)
    result, folder = train(cfg), run_folder(cfg)
    said = capsys.readouterr().err
    kept = json.loads((folder / "split.json").read_text())
    rare = {split: [name for name, count in kept[split] if count == 2] for split in ("train", "val", "test")}
    assert sum(map(len, rare.values())) == 6
    assert kept["left_out"] == {split: names for split, names in rare.items() if names}
    for split, names in kept["left_out"].items():
        assert f"{len(names)} of {len(kept[split])} {split} classes have fewer than" in said
    assert evaluate(evaluation(folder, tmp_path))["mean"] == pytest.approx(result["mean"])
    evaluate(evaluation(folder, tmp_path, shots=1, queries=1))
    assert "left out" in capsys.readouterr().err.split("mean")[0]
    with pytest.raises(UserError, match=r"data.ways=2 is more than the 0 test classes with 31 images"):
        evaluate(evaluation(folder, tmp_path, queries=30))
    fill_folder(tmp_path / "images", {f"rare0/{i}.png": picture(i, side=9) for i in range(3, 9)})
    assert run_folder(config(tmp_path, *overrides)) != folder
    with pytest.raises(
        UserError, match="the run's data have changed since it began: class rare0 was 2 images"
    ):
        evaluate(evaluation(folder, tmp_path))


def test_a_run_does_not_go_on_with_other_classes(tmp_path: Path) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    first = train(cfg)
    folder = run_folder(cfg)
    (folder / "result.json").unlink()
    assert train(cfg)["mean"] == first["mean"]
    split = json.loads((folder / "split.json").read_text())
    split["val"][0], split["test"][1] = split["test"][1], split["val"][0]
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "result.json").unlink()
    with pytest.raises(
        UserError, match=r"20 images in (val|test) and is 20 images in (test|val), so are 2 classes"
    ):
        train(cfg)
    for text in ("[1]", "nonsense", '{"train": 5}'):
        (folder / "split.json").write_text(text)
        with pytest.raises(UserError, match="is not a run's split"):
            train(cfg)


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_a_run_that_cannot_be_written_is_shown(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tmp_path)
    first = train(cfg)
    folder = run_folder(cfg)
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()  # as unwritable as a file of a read-only folder, for root too
    (folder / "evaluations").write_text("")
    capfd.readouterr()
    if program == "train":
        assert train(cfg) == first
        return
    assert evaluate(evaluation(folder, tmp_path))["mean"] == pytest.approx(first["mean"], rel=1e-6)
    out, err = capfd.readouterr()
    assert "test mse (1-shot, 30 tasks" in out
    assert "not everything was kept in" in err


def test_an_evaluation_waits_for_another_to_write(tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_steps=10")
    train(cfg)
    folder = run_folder(cfg) / "evaluations"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        asked = threading.Thread(target=evaluate, args=[evaluation(run_folder(cfg), tmp_path)])
        asked.start()
        asked.join(timeout=4)
        assert [path.name for path in folder.iterdir()] == [".lock"]
    asked.join()
    assert len(list(folder.glob("*.json"))) == 1


def test_several_evaluations_of_one_run_at_once(tmp_path: Path, start: Start) -> None:
    cfg = config(tmp_path, "trainer.max_steps=10")
    train(cfg)
    code = "from fewshot.config.compose import composed\nfrom fewshot.training.evaluate import evaluate\n"
    code += f"evaluate(composed(['run={run_folder(cfg)}', 'enable_progress_bar=false'], 'evaluate'))"
    many = [start([sys.executable, "-c", code], CONF.parent) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in many] == [("", 0)] * 2
    assert not list((run_folder(cfg) / "evaluations").glob("*.part"))


TAMPERED = [
    '{"status": "finished"}',
    '{"mean": "[bold]many[/bold]"}',
    '{"mean": null}',
    '{"shots": "5"}',
    '{"metric": 3}',
    '{"config_diff": [1]}',
    '{"differs_from_paper": [1]}',
    '{"method": "\\u009b31m"}',
    '{"interpretability": {"a": "b"}}',
    '{"mean": NaN}',
    '{"status": "[red]"}',
    '{"tests": 5}',
    '{"mean": 1' + "0" * 400 + "}",
    '{"interpretability": {"a: b": null}}',
    '{"method": "\\u001b[31m"}',
    "[" * 3000,
]


def test_a_state_that_cannot_be_loaded_is_one_error(tmp_path: Path, outputs_of_ends: Path) -> None:
    cfg, _ = copied(outputs_of_ends, "killed", tmp_path)
    path = run_folder(cfg) / "last.ckpt"
    torch.save(torch.load(path, weights_only=True) | {"optimizer_states": [{}]}, path)
    with pytest.raises(
        UserError, match=r"cannot resume from .*last\.ckpt .*; overwrite=true trains from scratch$"
    ):
        train(cfg)


@pytest.mark.parametrize("name", ["config.yaml", "best.ckpt", "result.json", "last.ckpt", "split.json"])
def test_a_pipe_in_a_run_folder_does_not_hang(name: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    train(cfg)
    (run_folder(cfg) / name).unlink()
    os.mkfifo(run_folder(cfg) / name)
    with suppress(UserError):
        evaluate(evaluation(run_folder(cfg), tmp_path))
    if name != "result.json":
        (run_folder(cfg) / "result.json").unlink()
    with suppress(UserError):
        train(cfg)


def test_rows_without_end_do_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = train(config(tmp_path))
    cfg = config(tmp_path, outputs="killed")
    kill_at(39, cfg, monkeypatch)
    with (run_folder(cfg) / "metrics.csv").open("ab") as file:
        file.write(b"1," * 10**5 + b"x" * 10**6 + b"\n99999999999999999999999999,1,val/mse,0\n\0\0")
    assert train(cfg)["mean"] == undisturbed["mean"]
    assert rows(run_folder(cfg) / "metrics.csv") == rows(run_folder(config(tmp_path)) / "metrics.csv")


def test_random_numbers_go_on() -> None:
    """Dropout's, of backbones that have it."""
    saves = [LastCheckpoint(Path(), 1, 1, 1, Timer(), 1.0) for _ in range(2)]
    state = saves[0].state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(5)
    saves[1].load_state_dict(state)
    assert torch.equal(torch.rand(3), drawn)


def test_a_linked_folder_is_left_where_it_is(tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_steps=10")
    train(cfg)
    (tmp_path / "scratch").mkdir()
    (run_folder(cfg) / "wandb").symlink_to(tmp_path / "scratch")
    assert train(config(tmp_path, "trainer.max_steps=10", "overwrite=true"))["status"] == "finished"
    assert (tmp_path / "scratch").is_dir()
    assert not (run_folder(cfg) / "wandb").exists()


@pytest.mark.parametrize("kept", ["", "../../x", "a b\n", "0" * 10**5])
def test_a_bad_wandb_id_is_replaced(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("wandb.init", lambda **settings: seen.append(settings["id"]) or MagicMock())
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "wandb_id").write_text(kept)
    for _ in range(2):
        start_wandb(config(tmp_path, "logger=wandb"), tmp_path)
    assert re.fullmatch("[0-9a-f]{8}", seen[0])
    assert seen[0] == seen[1] == (tmp_path / "wandb_id").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
            "holds aliases",
        ),
        ("[" * 3000, "not a run's configuration"),
        (
            "shots: .inf\nform: text\n"
            + "".join(f"{g}: {{name: sine}}\n" for g in ("data", "method", "backbone", "logger")),
            "Overflow",
        ),
        ("x: " + "1" * 200_000, "not a run's configuration"),
    ],
    ids=["aliases", "nested", "infinite", "long"],
)
def test_a_strangers_configuration_is_bounded(text: str, said: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_steps=10")
    train(cfg)
    (run_folder(cfg) / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        evaluate(evaluation(run_folder(cfg), tmp_path))


def test_a_strangers_passes_are_bounded(tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_steps=10")
    train(cfg)
    path = run_folder(cfg) / "config.yaml"
    path.write_text(re.sub(r"passes: \d+", "passes: 1000000000", path.read_text()))
    with pytest.raises(UserError, match="passes=1000000000: give a whole number from 1 to 10000"):
        evaluate(evaluation(run_folder(cfg), tmp_path))


def test_a_missing_best_state_names_the_mend(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    train(cfg)
    (run_folder(cfg) / "best.ckpt").unlink()
    (run_folder(cfg) / "result.json").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt is missing; overwrite=true trains from scratch"):
        train(cfg)
    with pytest.raises(UserError, match=r"best\.ckpt; train\.py with overwrite=true makes it anew"):
        evaluate(evaluation(run_folder(cfg), tmp_path))


def test_brackets_in_a_path_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = config(tmp_path, f"paths.outputs='{tmp_path}/[bold]x[/bold]'", "trainer.max_steps=10")
    train(cfg)
    assert "/[bold]x[/bold]/sine/lstm/1-shot/" in capfd.readouterr().out


@pytest.mark.parametrize("damage", ["garbage", "another method"])
def test_a_run_does_not_resume_from_a_damaged_checkpoint(
    damage: str, tmp_path: Path, outputs_of_ends: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cfg, mean), other = copied(outputs_of_ends, "killed", tmp_path), config(tmp_path, "method=oplstm")
    content = b"garbage"
    if damage != "garbage":
        kill_at(39, other, monkeypatch)
        content = (run_folder(other) / "last.ckpt").read_bytes()
    (run_folder(cfg) / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.ckpt .*; overwrite=true trains from scratch"):
        train(cfg)
    assert not (run_folder(cfg) / "result.json").exists()
    assert train(config(tmp_path, "overwrite=true"))["mean"] == mean


def test_settings_of_another_method_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"unknown setting 'method.adapt_head_only': the method or data chosen has none"
    ):
        train(config(tmp_path, "method=maml", "method.name=sap"))


def test_kill_minus_nine(tmp_path: Path, start: Start) -> None:
    undisturbed = train(config(tmp_path, "trainer.max_steps=150"))
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
    result = train(cfg)
    assert {k: result[k] for k in ("mean", "ci95", "best_step", "best_validation")} == {
        k: undisturbed[k] for k in ("mean", "ci95", "best_step", "best_validation")
    }


def test_a_log_file_has_a_line_a_validation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(config(tmp_path, "trainer.enable_progress_bar=true"))
    assert "update 40 of 40: val/mse" in capfd.readouterr().err


def test_a_finished_run_is_shown_not_repeated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = config(tmp_path)
    first = train(cfg)
    stamp = (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns
    capfd.readouterr()
    assert train(cfg) == first
    out, err = capfd.readouterr()
    assert "already finished" in err
    assert "test mse" in out
    assert (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns == stamp
    train(config(tmp_path, "overwrite=true"))
    assert (run_folder(cfg) / "best.ckpt").stat().st_mtime_ns != stamp


def test_a_job_that_is_queued_again_goes_on_in_spite_of_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begins_anew(job: str, restarts: str) -> bool:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        return bool(run_train(config(tmp_path, "overwrite=true")).get("ran", True))

    assert begins_anew("7", "0")
    assert not begins_anew("7", "1")
    assert begins_anew("8", "1")  # which waited for its data, say
    assert begins_anew("8", "0")  # by hand, in an allocation


def test_what_does_not_change_a_score_does_not_change_the_folder(tmp_path: Path) -> None:
    same = (
        "trainer.max_time=00:00:01:00",
        "logger=none",
        "trainer.save_every_n_steps=7",
        "trainer.enable_progress_bar=true",
        "overwrite=true",
    )
    assert len({run_folder(config(tmp_path, o)) for o in ("seed=0", *same)}) == 1
    different = (
        "method.lr=0.1",
        "variant=paper",
        "seed=1",
        "trainer.max_steps=41",
        "trainer.num_val_tasks=31",
        "shots=2",
    )
    assert len({run_folder(config(tmp_path, o)) for o in ("seed=0", *different)}) == 1 + len(different)


def test_a_timeout_leaves_no_test_score_until_asked(tmp_path: Path) -> None:
    cfg = config(
        tmp_path,
        "trainer.max_time=00:00:00:01",
        "trainer.max_steps=1000000",
        "trainer.save_every_n_steps=1000",
    )
    result = train(cfg)
    assert result["status"] == "timeout"
    assert result["mean"] is None
    assert 0 < result["train_tasks"] < 2_000_000
    tested = evaluate(evaluation(run_folder(cfg), tmp_path))
    assert tested["mean"] > 0


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner_losses = prepare.make_learner

    def spoiled(cfg: DictConfig, source: Any) -> Any:
        learner = learner_losses(cfg, source)
        original = learner.training_step

        def step(episode: Episode, batch_idx: int) -> dict[str, torch.Tensor]:
            made = original(episode, batch_idx)
            return made | {"loss": made["loss"] * (float("nan") if learner.global_step > 22 else 1)}

        learner.training_step = step
        return learner

    monkeypatch.setattr(prepare, "make_learner", spoiled)
    cfg = config(tmp_path)
    result = train(cfg)
    assert result["status"] == "diverged"
    assert result["mean"] is None
    for name in ("best.ckpt", "last.ckpt"):
        state = torch.load(run_folder(cfg) / name, weights_only=True)
        assert state["global_step"] <= 22
        assert all(torch.isfinite(t).all() for t in state["state_dict"].values())


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    folder = run_folder(cfg)
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="another process"):
        train(cfg)


def test_an_unwritable_root_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot read or write a file"):
        train(config(tmp_path, outputs="file"))


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such accelerator"):
        train(config(tmp_path, "trainer.accelerator=mps"))
    finished = train(config(tmp_path))
    with pytest.raises(UserError, match="no such accelerator"):
        train(config(tmp_path, "trainer.accelerator=mps", "overwrite=true"))
    assert train(config(tmp_path)) == finished


def evaluation(folder: Path, tmp_path: Path, **changes: Any) -> DictConfig:
    told = {
        "run": folder,
        "enable_progress_bar": False,
        "paths.raw": tmp_path / "raw",
        "paths.prepared": tables(tmp_path),
    } | changes
    values = {key: f"'{value}'" if isinstance(value, str | Path) else value for key, value in told.items()}
    return composed([f"{key}={value}" for key, value in values.items()], "evaluate")


def test_a_trial_of_a_search_can_be_tested_later(tmp_path: Path) -> None:
    cfg = config(tmp_path, "search=lstm_sine", "trial=3", "method.hidden=[8]", "method.passes=1")
    result = train(cfg)
    assert evaluate(evaluation(run_folder(cfg), tmp_path))["mean"] == result["mean"]


def test_evaluation_repeats_the_runs_own_test(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    result = train(cfg)
    folder = run_folder(cfg)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    again = evaluate(evaluation(folder, tmp_path))
    assert again["mean"] == pytest.approx(result["mean"], rel=1e-6)
    more = evaluate(evaluation(folder, tmp_path, shots=10, queries=20, tasks=15))
    assert (more["shots"], more["test_queries"], more["tasks"]) == (10, 20, 15)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    kept = {p.name for p in (folder / "evaluations").glob("*.json")}
    assert kept == {"sine-1way-1shot-50queries-30tasks.json", "sine-1way-10shot-20queries-15tasks.json"}
    with pytest.raises(UserError, match="path=elsewhere is for data=folder"):
        evaluate(evaluation(folder, tmp_path, path="elsewhere"))


def test_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        files = {f"class{c}/{i}.png": picture(20 * c + i) for c in range(12) for i in range(20)}
        fill_folder(tmp_path / name, files)
    small = ["data=folder", "method=protonet", "backbone.widths=[4,4]", "data.size=8", "data.channels=1"]
    small += ["data.ways=2", "data.train_queries=3", "data.val_queries=3"]
    cfg = config(tmp_path, *small, f"data.path={tmp_path / 'one'}")
    assert run_folder(cfg) != run_folder(config(tmp_path, *small, f"data.path={tmp_path / 'two'}"))
    train(cfg)
    folder = run_folder(cfg)
    own = evaluate(evaluation(folder, tmp_path, path=str(tmp_path / "two" / ".." / "one")))
    other = evaluate(evaluation(folder, tmp_path, path=str(tmp_path / "two")))
    assert (own["test_queries"], other["test_queries"]) == (1, 15)
    assert len(list((folder / "evaluations").glob("folder-one-*-2way-1shot-1queries-30tasks.json"))) == 1
    assert len(list((folder / "evaluations").glob("folder-two-*-2way-1shot-15queries-30tasks.json"))) == 1
    fill_folder(tmp_path / "one", {"class0/another.png": picture()})
    assert run_folder(cfg) != folder


def test_a_further_test_may_be_on_a_folder(tmp_path: Path) -> None:
    images_of(tmp_path, "other")
    small = [*images_of(tmp_path), "method=protonet", "trainer.max_steps=10"]
    result = train(config(tmp_path, *small, f"data.test=['{tmp_path / 'other'}']"))
    [(name, entry)] = result["tests"].items()
    assert name.startswith("folder-other-")
    assert (entry["tasks"], entry["test_queries"]) == (30, 15)
    [kept] = Path(run_folder(config(tmp_path, *small))).glob("evaluations/*.json")
    assert json.loads(kept.read_text())["data"] == name  # not "folder", as the run's own
    assert result == train(config(tmp_path, *small, f"data.test=['{tmp_path / 'other'}']"))
    with pytest.raises(UserError, match="is no folder: choose one of omniglot, mini"):
        config(tmp_path, *small, "data.test=[nowhere]")


def test_a_run_on_a_folder_can_be_tested_on_any_named_data(tmp_path: Path) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    train(cfg)
    for name in SHARED:
        _, tested = trained_and_tested(evaluation(run_folder(cfg), tmp_path, data=name))
        assert (tested.data.name, tested.data.size, tested.data.ways) == (name, 8, 2)
        assert "path" not in tested.data


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_is_tested_where_its_training_images_never_were(finished: bool, tmp_path: Path) -> None:
    images_of(tmp_path, "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # which is not where it is tested
        cfg = config(
            tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10", "data.test=[other]"
        )
        trained = train(cfg)
    folder = run_folder(cfg)
    shutil.rmtree(tmp_path / "images")
    if not finished:
        (folder / "result.json").unlink()
    result = evaluate(evaluation(folder, tmp_path, data="folder", path=tmp_path / "other"))
    assert (result["status"], result["config_diff"]) == ("finished", trained["config_diff"])
    frame = load(folder)
    assert set(frame["config_diff"]) == {as_overrides(trained["config_diff"])}
    assert set(frame["test_queries"]) == ({1, 15} if finished else {15})
    with pytest.raises(UserError, match=r"images does not exist: give .* as path="):
        evaluate(evaluation(folder, tmp_path))
    with pytest.raises(UserError, match=r"nowhere does not exist: give .* as path="):
        evaluate(evaluation(folder, tmp_path, path=tmp_path / "nowhere"))


def test_a_test_is_kept_although_its_folder_vanishes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    train(cfg)
    folder = run_folder(cfg)

    def test_and_remove(*args: Any) -> Scores:
        shutil.rmtree(tmp_path / "images")
        return run_test(*args)

    monkeypatch.setattr("fewshot.training.evaluate.test", test_and_remove)
    result = evaluate(evaluation(folder, tmp_path))
    [kept] = (folder / "evaluations").glob("folder-images-*.json")
    assert json.loads(kept.read_text())["mean"] == result["mean"]


def test_bn_support_is_a_test_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    train(cfg)
    folder = run_folder(cfg)
    before = (folder / "result.json").read_bytes()
    used = list[str]()
    monkeypatch.setattr(
        "fewshot.training.evaluate.test", lambda *told: used.append(told[1].body.bn) or run_test(*told)
    )
    result = evaluate(evaluation(folder, tmp_path, bn="support"))
    assert (result["bn"], result["train_bn"], used) == ("support", "transductive", ["support"])
    assert "tested with bn support" in score_line(result)
    [kept] = (folder / "evaluations").glob("*.json")
    assert kept.name.endswith("-2way-1shot-1queries-30tasks-bn-support.json")
    assert (folder / "result.json").read_bytes() == before
    evaluate(evaluation(folder, tmp_path))  # as trained: neither takes the other's place
    assert sorted(load(folder)["bn"]) == ["support", "transductive"]
    as_trained = train(config(tmp_path, *images_of(tmp_path), "method=protonet", "backbone.bn=support"))
    assert as_trained["train_bn"] == "support"
    assert "tested with" not in score_line(as_trained)


def test_bn_support_needs_batch_norm(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    train(cfg)
    with pytest.raises(UserError, match=r"^bn=support: the run has no batch norm"):
        evaluate(evaluation(run_folder(cfg), tmp_path, bn="support"))
    assert not (run_folder(cfg) / "evaluations").exists()


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    cfg, other = config(tmp_path), config(tmp_path, "method=oplstm")
    train(cfg)
    train(other)
    checkpoint = run_folder(cfg) / "best.ckpt"
    checkpoint.write_bytes((run_folder(other) / "best.ckpt").read_bytes())
    with pytest.raises(UserError, match="does not hold the weights of the run's method=lstm"):
        evaluate(evaluation(run_folder(cfg), tmp_path))


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_a_strangers_folder_is_data_not_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = config(tmp_path)
    train(cfg)
    folder = run_folder(cfg)
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value, message in (
        ("method", stored["method"] | {"_target_": "os.mkdir"}, "does not fit this version"),
        ("method", stored["method"] | {"name": "os.path"}, "unknown method 'os.path': choose one of lstm"),
        ("method", stored["method"] | {"name": "os/path"}, "more than plain values"),
        ("seed", "${oc.env:HOME}", "more than plain values"),
        ("surprise", 1, "does not fit this version"),
        ("trainer", stored["trainer"] | {"max_steps": "many"}, "give a whole number"),
    ):
        (folder / "config.yaml").write_text(yaml.safe_dump(stored | {key: value}))
        with pytest.raises(UserError, match=message):
            evaluate(evaluation(folder, tmp_path))
    (folder / "config.yaml").write_text("!!python/object/apply:os.mkdir ['executed']")
    with pytest.raises(UserError, match="not a run's configuration"):
        evaluate(evaluation(folder, tmp_path))
    (folder / "config.yaml").write_text(yaml.safe_dump(stored))
    torch.save({"state_dict": Malice()}, folder / "best.ckpt")
    with pytest.raises(UserError, match="cannot be loaded"):
        evaluate(evaluation(folder, tmp_path))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["result.json", "test_scores.csv", "metrics.csv", "last.ckpt"])
def test_a_folder_in_a_files_place_is_told_before_training(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tmp_path)
    folder = run_folder(cfg)
    (folder / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{name} is no file: take it away, or overwrite=true does"):
        train(cfg)
    assert "update" not in capfd.readouterr().err
    assert train(config(tmp_path, "overwrite=true"))["status"] == "finished"


def test_what_is_read_of_a_strangers_run_names_file_and_mend(tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_steps=10")
    train(cfg)
    folder = run_folder(cfg)
    best, stored = (folder / "best.ckpt").read_bytes(), (folder / "config.yaml").read_text()
    torn = bytearray(best)
    torn[len(torn) // 2] ^= 1  # in the midst of a weight
    for data, said in ((bytes(torn), "in it is damaged"), (b"noise", "not a zip file")):
        (folder / "best.ckpt").write_bytes(data)
        with pytest.raises(
            UserError, match=rf"best\.ckpt .*{said}; train\.py with overwrite=true makes it anew"
        ):
            evaluate(evaluation(folder, tmp_path))
    torch.save({"state_dict": Malice()}, folder / "best.ckpt")
    with pytest.raises(UserError, match="loaded: it holds more than tensors and plain values; train"):
        evaluate(evaluation(folder, tmp_path))
    (folder / "best.ckpt").write_bytes(best)
    (folder / "config.yaml").write_text(stored.replace("seed: 0", "seed: -1"))
    with pytest.raises(UserError, match=rf"^{folder}/config\.yaml: seed=-1: give a whole number"):
        evaluate(evaluation(folder, tmp_path))


def test_a_log_of_nothing_is_drawn_in_silence(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "metrics.csv").write_text("tasks,step,metric,value\n0,0,other,1\n")
    learning_curve(tmp_path / "metrics.csv", "a run")
    assert not recwarn.list


def test_shipped_settings_count_as_published(tmp_path: Path) -> None:
    whole = composed(["data=omniglot", "method=oplstm"])
    assert config_diff(whole) == {}
    assert config_diff(composed(["data=omniglot", "method=oplstm", "data.test_queries=15", "seed=3"])) == {}
    assert config_diff(composed(["data=omniglot", "method=oplstm", "method.lr=0.1"])) == {"method.lr": 0.1}
    assert config_diff(composed(["data=omniglot", "backbone=conv4"]))["backbone.name"] == "conv4"
    assert config_diff(config(tmp_path))["trainer.max_steps"] == 40


def test_the_bar_of_a_resumed_run_has_the_whole_total() -> None:
    bar = ProgressBar()
    bar._trainer = MagicMock(max_steps=3000, global_step=350)
    assert bar.total_train_batches == 3000


def test_a_run_says_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line a validation without a bar, and from where it goes on."""
    cfg = config(tmp_path)
    kill_at(29, cfg, monkeypatch)
    train(cfg)
    err = capfd.readouterr().err
    assert re.search(r"update 0 of 40: val/mse [\d.]+\n", err)
    assert re.search(r"goes on at update \d+ of 40\n", err)
    assert "update 40 of 40: val/mse " in err


def test_a_method_without_shipped_settings_runs_with_ones_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = [
        "method=warpmaml",
        "method.lr=0.001",
        "method.inner_lr=0.01",
        "method.inner_steps=2",
        "method.last_loss=false",
    ]
    result = train(config(tmp_path, *own, "data.train_queries=5", "trainer.max_steps=10"))
    assert not result["published_settings"]
    assert (
        result["config_diff"].items()
        >= {"method.lr": 0.001, "method.inner_steps": 2, "method.meta_batch_size": 2}.items()
    )
    assert "seed 0, " in (out := capfd.readouterr().out)
    assert "method.inner_lr=0.01" in out


def test_an_unfinished_run_is_told_and_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tmp_path)
    kill_at(21, cfg, monkeypatch)
    tested = evaluate(evaluation(run_folder(cfg), tmp_path))
    assert (tested["run_status"], tested["tasks"]) == ("unfinished", 30)
    assert f"after update {tested['best_step']}" in capfd.readouterr().err
    train(cfg)
    assert evaluate(evaluation(run_folder(cfg), tmp_path))["run_status"] == "finished"


def test_interval_of_known_scores() -> None:
    mean, half = mean_and_ci95([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(3.182446305284263 * (5 / 3) ** 0.5 / 2)


def test_a_meta_batch_in_parts_is_the_same_run(tmp_path: Path) -> None:
    whole, parts = config(tmp_path), config(tmp_path, "trainer.micro_batch_size=1", outputs="parts")
    assert run_folder(whole).name == run_folder(parts).name
    results = [train(cfg) for cfg in (whole, parts)]
    assert results[0]["best_validation"] == pytest.approx(results[1]["best_validation"], rel=1e-3)
    assert results[0]["mean"] == pytest.approx(results[1]["mean"], rel=1e-3)
    with pytest.raises(UserError, match=r"with method\.grad_clip_each=true leave it null"):
        config(tmp_path, "method=maml", "trainer.micro_batch_size=1")


def test_an_update_takes_the_tasks_that_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewshot.methods.lstm import PlainLSTM

    sizes, predict = [], PlainLSTM.predict
    monkeypatch.setattr(PlainLSTM, "predict", lambda self, e: sizes.append(len(e.tasks)) or predict(self, e))
    train(
        config(tmp_path, "trainer.micro_batch_size=1", "trainer.max_steps=2", "trainer.val_check_interval=2")
    )
    assert sizes.count(1) == 4  # two updates of two tasks
