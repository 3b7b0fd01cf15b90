"""The command line: mistakes in one line, multiruns, help, shots of any number, configs of one's own."""

import json
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

from fewshot.cli import evaluate_job, main, train_job
from fewshot.config.compose import CONF, composed
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.training import jobs
from fewshot.training.jobs import count_jobs
from tests.conftest import tables
from tests.helpers import TINY

pytestmark = pytest.mark.usefixtures("composed_once", "undrawn")

MISTAKES = [  # a command, and what is said
    ("method=oplst", "Could not find 'method/oplst' Available options in 'method': lstm maml oplstm"),
    ("trainer.update=3", "Could not override 'trainer.update'."),
    ("methd=maml", "Could not override 'methd'."),
    ("variant=text", "variant=text: Input should be 'released' or 'paper'"),
    ("seed=-1", "seed=-1: Input should be greater than or equal to 0"),
    ("seed=1.5", "seed=1.5: Input should be a valid integer"),
    ("seed=0,1", "To sweep over it, add --multirun"),
    ("method.lr=fast data=sine", "OPLSTM: lr=fast: Input should be a valid number"),
    ("method.lr=-1 data=sine", "OPLSTM: lr=-1: Input should be greater than 0"),
    ("method.passes=0 data=sine", "OPLSTM: passes=0: Input should be greater than or equal to 1"),
    ("method.softmax=maybe data=sine", "OPLSTM: softmax=maybe: Input should be a valid boolean"),
    ("method.lstm_units=[5,5] data=sine", "lstm_units=[5, 5]: the last is 1"),
    ("method.preactivation=true data=sine", "preactivation=true needs linear layers"),
    (
        "method=lstm method.support_mode=bag data=sine",
        "support_mode=bag: Input should be 'set' or 'sequence'",
    ),
    ("method=lstm method.inputs=prev_target data=sine", "choose support_mode=sequence"),
    ("method=lstm method.query_cell=true data=sine", "query_cell=true needs pool_cell=true"),
    ("method=lstm data=sine backbone.widths=[8]", "would not use backbone.widths=[8]"),
    ("data=sine method.meta_batch_size=0", "EpisodicDataModule: meta_batch_size=0: Input should be greater"),
    ("data=sine shots=0", "shots=0: Input should be greater"),
    ("data=sine shots=two", "Could not find 'shots/two'"),
    ("data=sine backbone=conv4", "layer=conv is for images"),
    ("data=sine method=protonet", "method=protonet classifies, and data=sine is regression"),
    (
        "data=sine method=warpmaml",
        "no published settings for method=warpmaml data=sine shots=1: set method.lr=…",
    ),
    ("trainer.max_time=2h", "trainer.max_time=2h: Input should be days:hours:minutes:seconds"),
    ("trainer.val_check_interval=50", "trainer.val_check_interval=50 is more than trainer.max_steps=40"),
    ("trainer.num_threads=1000", "trainer.num_threads=1000: there are"),
    ("trainer.devices=3", "trainer.devices=3 cannot share method.meta_batch_size=2 equally"),
    ("trainer.precision=16-mixed method=maml data=sine", "choose bf16-mixed"),
    ("trainer.similarity=paper method=maml", "trainer.similarity is for method=oplstm on images"),
    ("data=folder", "set data.path=…"),
    ("data=folder data.path=nowhere", "nowhere does not exist"),
    ("data=glyphs data.test=[glyphs]", "glyphs is tested once"),
    ("paths.outputs=null", "paths.outputs=None: Input should be a valid string"),
    ("seed=${nowhere}", "nowhere"),
    ("+lr=0.1", "lr=0.1: Extra inputs are not permitted"),
    ("+data.qeries=3", "unknown setting data.qeries"),
    ("method._target_=nowhere.Mine", "Error loading 'nowhere.Mine'"),
    ("experiment=table1 method=lstm", "this study sweeps shots, seed: add -m"),
    ("search=lstm_sine", "this study sweeps trial: add -m"),
]
OF_EVALUATE = [
    ("", "run=…: give the folder of a run"),
    ("run=nowhere", "run=nowhere is no folder"),
    ("run=.", "it needs config.yaml and best.ckpt"),
    ("run=. queries=0", "queries=0: Input should be greater than or equal to 1"),
    ("run=. logger=csv", "Could not override 'logger'."),
]


def call(monkeypatch: pytest.MonkeyPatch, command: str, tmp_path: Path, program: str = "train") -> int:
    """Gives a command in `tmp_path`, with the settings of a short run, and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_PREPARED", str(tables(tmp_path)))
    short = TINY if program == "train" else []
    multirun, given = command.startswith("-m "), shlex.split(command.removeprefix("-m "))
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *["-m"] * multirun, *short, *given])
    return main(train_job if program == "train" else evaluate_job)


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_line(
    command: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    check_mistake(call(monkeypatch, command, tmp_path), message, capfd.readouterr().err)
    assert not (tmp_path / "outputs").exists() or not any((tmp_path / "outputs").rglob("config.yaml"))


@pytest.mark.parametrize(("command", "message"), OF_EVALUATE)
def test_a_mistake_in_an_evaluation_is_one_line(
    command: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    check_mistake(call(monkeypatch, command, tmp_path, "evaluate"), message, capfd.readouterr().err)


def check_mistake(code: int, message: str, err: str) -> None:
    lines = [line for line in err.splitlines() if not line.startswith("data=glyphs: ")]
    assert code == 2
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_job_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = "-m data=sine method=lstm,protonet,maml"
    assert call(monkeypatch, command, tmp_path) == 2
    err = capfd.readouterr().err
    [folder] = (tmp_path / "outputs" / "multirun").iterdir()
    rows = jobs.read(folder)
    assert [row.status.partition(":")[0] for row in rows.itertuples()] == ["finished", "invalid", "finished"]
    assert "method=protonet classifies" in rows.status[1]
    table = err[err.index("overrides") :]
    assert "method=lstm" in table
    assert "method=protonet" in table
    [result] = (tmp_path / "outputs" / "sine" / "maml").rglob("result.json")
    assert float(rows.score[2]) == pytest.approx(json.loads(result.read_text())["best_validation"], rel=1e-5)


@pytest.mark.slow
def test_joblib_runs_jobs_in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = "-m hydra/launcher=joblib hydra.launcher.n_jobs=2 data=sine method=lstm seed=0,1"
    assert call(monkeypatch, command, tmp_path) == 0
    [folder] = (tmp_path / "outputs" / "multirun").iterdir()
    assert sorted(jobs.read(folder).status) == ["finished", "finished"]
    assert "2 of 2 jobs" in capfd.readouterr().err or True


def test_a_job_that_slurm_requeued_counts_once(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("0,seed=0,stopped,,1\n1,seed=1,finished,2,3\n0,seed=0,finished,1,4\n")
    rows = jobs.read(tmp_path)
    assert sorted(rows.status) == ["finished", "finished"]
    assert jobs.read(tmp_path / "nowhere").equals(pd.DataFrame(columns=list(jobs.FIELDS)))


def test_jobs_are_counted() -> None:
    assert count_jobs(["method=lstm,maml", "seed=0,1,2", "shots='5'"]) == (6, {"method", "seed"})
    assert count_jobs(["seed=range(0,4)", "seed=1"]) == (1, set())
    assert count_jobs(["method.lr=interval(0,1)"]) == (None, {"method.lr"})


def test_memory_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(EpisodicDataModule, "setup", fails)
    assert call(monkeypatch, "data=sine method=lstm", tmp_path) == 2
    assert "error: not enough memory: lower trainer.micro_batch_size" in capfd.readouterr().err


def test_help_lists_settings_and_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, "--help", tmp_path)
    out = capfd.readouterr().out
    assert not ended.value.code
    assert "method     lstm | maml | oplstm" in out
    assert "method.passes=1" in out
    assert "T, updates by the whole support set" in out
    assert "trainer.gradient_clip_val=null" in out


def test_any_number_of_shots_is_a_choice() -> None:
    assert composed(["shots=137", "method=protonet"]).shots == 137
    assert composed(["shots='7'", "method=protonet"]).data.train_shots == 7


def test_naming_a_backbone_wins_over_the_data() -> None:
    assert composed(["data=mini"]).backbone.name == "conv4"
    assert composed(["backbone=fc", "data=mini"]).backbone.name == "fc"


def test_own_configs_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings").mkdir()
    published = (CONF / "settings" / "maml-mini.yaml").read_text()
    (tmp_path / "settings" / "maml-mini.yaml").write_text(published.replace("lr: 1.0e-3", "lr: 0.5", 1))
    monkeypatch.setenv("FEWSHOT_CONF", str(tmp_path))
    assert composed(["method=maml", "data=mini"]).method.lr == 0.5
