"""The command line: mistakes in one line, multiruns, help, shots of any number, configs of one's own."""

import json
import shlex
import sys
from unittest.mock import MagicMock

import pytest

from fewshot.cli import evaluate_job, main, read_jobs, train_job
from fewshot.config.compose import CONF, composed
from fewshot.errors import Diverged, OutOfTime
from fewshot.training import build
from tests.helpers import TINY, tables

pytestmark = pytest.mark.usefixtures("undrawn")

MISTAKES = {  # a command, and what is said
    "method=oplst": "Could not find 'method/oplst' Available options in 'method': deltanet logistic",
    "trainer.update=3": "Could not override 'trainer.update'.",
    "variant=text": "variant=text: Input should be 'released' or 'paper'",
    "seed=1.0": "seed=1.0: Input should be a valid integer",
    "seed=0,1": "To sweep over it, add --multirun",
    "+method.steps=3 data=sine": "method.steps=3: Extra inputs are not permitted",
    "method.lstm_units=[5,5] data=sine": "lstm_units=[5, 5]: the last is 1",
    "method=lstm method.inputs=prev_target data=sine": "choose support_mode=sequence",
    "method.preactivation=true data=sine": "preactivation=true needs adapted layers",
    "method=lstm data=sine backbone.widths=[8]": "would not use backbone.widths=[8]",
    "data=sine method.meta_batch_size=0": "method.meta_batch_size=0: Input should be greater",
    "data=sine method=protonet": "method=protonet classifies, and data=sine is regression",
    "+data.qeries=3": "data.qeries=3: Extra inputs are not permitted",
    "+trainer.gradient_clip=1": "trainer.gradient_clip=1: Extra inputs are not permitted",
    "data=sine backbone=conv4": "layer=conv is for inputs",
    "data=sine method=warpmaml": "method=warpmaml data=sine shots=1 has no default for",
    "trainer.max_time=2h": "trainer.max_time=2h: String should match pattern",
    "trainer.val_check_interval=50": "trainer.val_check_interval is more than trainer.max_steps",
    "trainer.devices=3": "method.meta_batch_size cannot be shared equally by trainer.devices",
    "data=sine method=maml trainer.devices=2": "method.grad_clip_each=true allows no",
    "trainer.similarity=paper method=maml": "trainer.similarity is for method=oplstm on images",
    "data=folder": "has no default for data.path",
    "data=arrays method=maml": "has no default for data.path",
    "data=arrays data.path=nowhere.npz method=maml": "nowhere.npz does not exist: give an .npz file",
    "data=folder data.path=nowhere": "nowhere does not exist",
    "seed=${nowhere}": "nowhere",
    "paths.outputs=\"'~/runs'\"": "paths.outputs=~/runs: String should match pattern",
}
OF_EVALUATE = {
    "": "Missing mandatory value: run",
    "run=.": "it needs config.yaml and best.ckpt",
    "run=. queries=0": "queries=0: Input should be greater than or equal to 1",
}


def call(monkeypatch, command, tmp_path, program="train"):
    """Gives a command in `tmp_path`, with the settings of a short run, and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_PREPARED", str(tables(tmp_path)))
    short = TINY if program == "train" else []
    multirun, given = command.startswith("-m "), shlex.split(command.removeprefix("-m "))
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *["-m"] * multirun, *short, *given])
    return main(train_job if program == "train" else evaluate_job)


@pytest.mark.parametrize(
    ("program", "command", "message"),
    [
        *(("train", *mistake) for mistake in MISTAKES.items()),
        *(("evaluate", *mistake) for mistake in OF_EVALUATE.items()),
    ],
)
def test_a_mistake_is_one_line(program, command, message, tmp_path, monkeypatch, capfd):
    code = call(monkeypatch, command, tmp_path, program)
    [line] = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("data=glyphs: ")]
    assert code == 2
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_job_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capfd):
    command = "-m data=sine method=lstm,protonet,maml"
    assert call(monkeypatch, command, tmp_path) == 2
    err = capfd.readouterr().err
    [folder] = (tmp_path / "outputs" / "multirun").iterdir()
    rows = read_jobs(folder)
    assert [*rows.status.str.partition(":")[0]] == ["finished", "invalid", "finished"]
    assert rows.status[1] == "invalid: method=protonet classifies, and data=sine is regression"
    assert ": finished (3 of 3, 0:00:00 left at this rate)" in err
    table = err[err.index("overrides") :].splitlines()
    for row, name in zip(table[1:], ("lstm", "protonet", "maml"), strict=True):
        assert row.split()[1] == f"method={name}"  # without data=sine, which all jobs have
    assert "best validation" in table[0]
    [result] = (tmp_path / "outputs" / "sine" / "maml").rglob("result.json")
    assert float(rows.score[2]) == pytest.approx(json.loads(result.read_text())["best_validation"], rel=1e-5)


@pytest.mark.slow
def test_joblib_runs_jobs_in_processes(tmp_path, monkeypatch, capfd):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = "-m hydra/launcher=joblib hydra.launcher.n_jobs=2 data=sine method=lstm seed=0,1"
    assert call(monkeypatch, command, tmp_path) == 0
    [folder] = (tmp_path / "outputs" / "multirun").iterdir()
    assert sorted(read_jobs(folder).status) == ["finished", "finished"]
    err = capfd.readouterr().err
    assert "job 1, " in err
    assert "finished (2 of 2, 0:00:00 left" in err


def test_a_job_that_slurm_requeued_counts_once(tmp_path):
    (tmp_path / "jobs.csv").write_text("0,seed=0,requeued,\n1,seed=1,finished,2\n0,seed=0,finished,1\n")
    assert [*read_jobs(tmp_path).status] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("error", "code"), [(OutOfTime("over"), 124), (Diverged("nan"), 1), (ValueError("a bug"), 1)]
)
def test_the_exit_code_is_that_of_the_worst_job(error, code, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(build, "make_datamodule", MagicMock(side_effect=error))
    for command in ("data=sine", "-m data=sine seed=0,1"):
        assert call(monkeypatch, command, tmp_path) == code
        assert ("Traceback" in capfd.readouterr().err) == isinstance(error, ValueError)


def test_help_lists_settings_and_choices(tmp_path, monkeypatch, capfd):
    assert call(monkeypatch, "--help", tmp_path) == 0
    out = capfd.readouterr().out
    assert "method: deltanet, logistic, lstm, maml, metasgd" in out
    assert "method.passes=1" in out
    assert "T, updates by the whole support set" in out
    assert "trainer.gradient_clip_val=null" in out


def test_naming_a_backbone_wins_over_the_data():
    assert composed(["data=mini"]).backbone.name == "conv4"
    assert composed(["backbone=fc", "data=mini"]).backbone.name == "fc"


def test_own_configs_come_first(tmp_path, monkeypatch):
    (tmp_path / "settings").mkdir()
    published = (CONF / "settings" / "maml-mini.yaml").read_text()
    (tmp_path / "settings" / "maml-mini.yaml").write_text(published.replace("lr: 1.0e-3", "lr: 0.5", 1))
    monkeypatch.setenv("FEWSHOT_CONF", str(tmp_path))
    assert composed(["method=maml", "data=mini"]).method.lr == 0.5
