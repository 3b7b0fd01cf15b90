"""The command line: every mistake is one line that names it and the mend, exit code 1 or 2, before work starts."""

import sys
from pathlib import Path

import pytest

import evaluate
import train
from fewshot.cli import CONF, composed, main, sweep

MISTAKES = [
    ("method=oplst", "did you mean oplstm?"),
    ("data=omniglt", "did you mean omniglot?"),
    ("backbone=conv", "did you mean conv4?"),
    ("form=txt", "did you mean text?"),
    ("logger=wandbb", "did you mean wandb?"),
    ("trainer.update=3", "did you mean trainer.updates?"),
    ("method.suport=set method=lstm", "did you mean method.support?"),
    ("shots=0", "give positive whole numbers"),
    ("shots=2.5", "give positive whole numbers"),
    ("shots=five", "give positive whole numbers"),
    ("-m shots=1,0", "give positive whole numbers"),
    ("seed=-1", "seed=-1: give a whole number"),
    ("seed=1.5", "seed=1.5: give a whole number"),
    ("method.meta_batch=0", "method.meta_batch=0: give a positive whole number"),
    ("trainer.updates=2.5", "trainer.updates=2.5: give a positive whole number"),
    ("method.lr=-1", "method.lr=-1: give a positive number"),
    ("method.lr=fast", "method.lr=fast: give a positive number"),
    ("method.gamma=0 data=sine", "method.gamma=0: give a positive number"),
    ("method.passes=0", "method.passes=0: give a positive whole number"),
    ("method.softmax=yes-please", "give true or false"),
    ("method=lstm method.support=bag", "method.support=bag: choose one of set, sequence"),
    ("backbone.bn=batch", "backbone.bn=batch: choose one of none, transductive, support"),
    ("trainer.max_time=2h", "write days:hours:minutes:seconds"),
    ("method.cells=[5,5]", "the last cell has 1 unit"),
    ("trainer.updates=10", "trainer.val_every=2500 is more than trainer.updates=10"),
    ("data.ways=1", "give 2 or more"),
    ("method=protonet data=sine", "choose another method or data"),
    ("data=sine backbone=conv4", "choose backbone=mlp"),
    ("data=glyphs backbone=conv4 data.size=8", "data.size is too small"),
    ("method.preactivation=true data=sine", "choose backbone=fc"),
    ("method=lstm method.query_cell=true", "method.query_cell=true needs method.pool_cell=true"),
    ("method=maml data=mini shots=7", "set method.meta_batch="),
    ("method=lstm data=folder", "set data.path="),
    ("method=[oplstm", "error: "),
]


def call(monkeypatch: pytest.MonkeyPatch, command: str, program: str = "train") -> int:
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *command.split()])
    if program == "train":
        return main(train.run, CONF, "train")
    return main(evaluate.run, CONF + "/evaluate", "evaluate")


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_line(
    command: str, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("FEWSHOT_PREPARED", str(tmp_path / "prepared"))
    assert call(monkeypatch, command) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert len([line for line in (out + err).splitlines() if line.strip()]) == 1, err
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "prepared").exists()


def test_a_run_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, f"run={tmp_path}", "evaluate") == 2
    assert "needs config.yaml and best.ckpt" in capfd.readouterr().err


def test_help_shows_the_commands(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "--help")
    assert stop.value.code in (0, None)
    text = capfd.readouterr().out
    for wanted in ("python train.py method=oplstm data=mini shots=5", "protonet", "glyphs", "released"):
        assert wanted in text


def test_any_positive_number_of_shots_is_a_choice() -> None:
    for shots in (1, 5, 7, 33):
        assert composed([f"shots={shots}"]).shots == shots


def test_cells_of_a_sweep_are_counted() -> None:
    cells, swept = sweep(["-m", "method=protonet,oplstm", "shots='1','5'", "seed=0,1,2", "data=glyphs"])
    assert cells == 12
    assert swept == {"method", "shots", "seed"}


def test_settings_of_unknown_shots_follow_from_method_and_data() -> None:
    assert composed(["method=maml", "data=mini", "shots=5"]).method.meta_batch == 2
    assert composed(["method=protonet", "data=mini", "shots=7"]).method.meta_batch == 4


def test_naming_a_backbone_wins_over_the_data() -> None:
    assert composed(["data=mini"]).backbone.name == "conv4"
    assert composed(["data=mini", "backbone=fc"]).backbone.name == "fc"
    assert composed(["data=omniglot", "backbone=conv4"]).method.normalisation == "matrix"
