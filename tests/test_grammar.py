"""Some of the random command lines and constructor calls of `make grammar`, and the faults that it found."""

from itertools import product
from pathlib import Path

import pytest
import torch

from fewshot.backbones import NAMES as BODIES
from fewshot.config.settings import of_evaluation, of_training
from fewshot.errors import UserError
from fewshot.methods import learner_class
from fewshot.methods.base import Lr, MetaLearner
from fewshot.options import check_values, help_of
from tests.conftest import FC
from tests.grammar import METHODS, callables, faults_of_calls, faults_of_lines, faults_of_studies, run_line
from tests.hostile import faults_of_reports, faults_of_runs

FAULTS = [  # found before there were declarations: tracebacks, then nonsense that was taken
    *(
        "method.name=nan",
        "data.name=[0]",
        "data.train_queries=[1,2]",
        "data.ways=[1,2]",
        "trainer.val_check_interval=[1,2]",
    ),
    *("method.gamma=[1,2]", "+backbone.foo=1", "trainer.max_time=99999999999:00:00:00"),
    *(
        "method.lr=[1,2]",
        "method.passes=[1]",
        "logger.name=foo",
        "logger.pictures=3",
        "backbone.name=../../x",
    ),
    *("backbone.name=[null]", "method.normalisation=null", "data.test_queries_of=-1", "+trainer.devices=2"),
    *(
        "++trainer.val_evry=3",
        "+data.foo=1",
        "data=sine data.sign=true",
        "trainer.eval_batch_size=99999999999999999999",
    ),
    *(
        "trainer.max_time=0:00:00:00",
        "method=lstm method.support_mode=null",
        "backbone.bn=null",
        "data.name=mini",
    ),
    *(
        "method={}",
        "data.path=/etc/passwd",
        "method=maml method.inner_lr=[1,2]",
        "method=maml method.grad_clip=[1,2]",
    ),
    *(
        "+foo=1",
        "settings=foo",
        "~trainer.enable_progress_bar",
        "~method",
        "~method.name +method.foo=1",
        "+method.inner_steps=3",
        "data.test=[glyphs]",
        "paths=5",
    ),
    *(
        "method.lstm_units=[]",
        "backbone.widths=[]",
        "method=lstm data=mini method.hidden=[]",
        "method=lstm data=mini backbone=mlp",
    ),
]


@pytest.mark.parametrize("command", FAULTS)
def test_what_was_taken_or_fell_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = run_line("train", command.split())
    assert code == 2, printed
    assert len(printed.splitlines()) == 1, printed


def test_some_random_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(faults_of_lines(60, seed=0)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("composed_once")
def test_some_random_studies() -> None:
    assert list(faults_of_studies(12, seed=0)) == []


def test_some_damaged_runs() -> None:
    assert list(faults_of_runs(8, seed=0)) == []


@pytest.mark.usefixtures("composed_once")
def test_some_damaged_reports() -> None:
    assert list(faults_of_reports(5, seed=0)) == []


def test_random_constructor_calls() -> None:
    assert list(faults_of_calls(400, seed=0)) == []


@pytest.mark.parametrize("number", range(len(callables())))
def test_what_makes_sense_is_taken(number: int) -> None:
    construct, arguments, _ = callables()[number]
    construct(**arguments)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (
            "oplstm",
            {"normalisation": "bogus"},
            "normalisation=bogus: choose one of example, matrix, joint, none",
        ),
        ("lstm", {"support_mode": "bogus"}, "support_mode=bogus: choose one of set, sequence"),
        (
            "lstm",
            {"support_mode": "set", "inputs": "prev_target"},
            "inputs=prev_target needs an order of the examples",
        ),
        (
            "lstm",
            {"support_mode": "sequence", "first_labels": False},
            "first_labels=false is for support_mode=set",
        ),
        ("oplstm", {"lstm_units": (5, 5)}, "the last cell has 1 unit"),
        (
            "maml",
            {"backbone": FC | {"bn": "bogus"}},
            "backbone.bn=bogus: choose one of none, transductive, support",
        ),
        ("maml", {"backbone": {"layer": "linear"}}, "missing a required argument: 'widths'"),
        ("maml", {"backbone": FC | {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ("warpmaml", {"backbone": FC | {"widths": [3]}}, "Warp-MAML's warps lie between blocks"),
    ],
)
def test_a_learner_in_a_notebook_refuses(method: str, options: dict[str, object], said: str) -> None:
    _, arguments, _ = next(told for told in callables() if told[0] is learner_class(method))
    with pytest.raises(UserError, match=said):
        learner_class(method)(**arguments | options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"temprature": 1}, "ProtoNet: got an unexpected keyword argument 'temprature'; it takes lr"),
        ({"backbone": None}, "backbone=None: give a dictionary"),
        ({"backbone": "fc"}, "backbone='fc': give a dictionary"),
        ({"task": None}, "task=None: give the task of a source"),
        ({"lr": 10**400}, "lr=1000000"),
        ({"lr": None}, "lr=null: give a number above 0"),
    ],
)
def test_arguments_of_no_sense_are_one_line(arguments: dict[str, object], said: str) -> None:
    construct, right, _ = callables()[0]
    with pytest.raises(UserError) as error:
        construct(**right | arguments)
    assert str(error.value).startswith(said)
    assert len(str(error.value).splitlines()) == 1


def test_an_option_without_a_declaration_is_its_authors_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    class Vague(MetaLearner):
        def __init__(self, task, backbone, lr: Lr, layers) -> None:  # type: ignore[no-untyped-def]
            super().__init__(task, lr)

    monkeypatch.setattr("fewshot.config.settings.learner_class", lambda _: Vague)
    with pytest.raises(UserError, match=r"Vague does not say what its option layers may be"):
        of_training("x", "sine", "csv", "blocks")


def test_every_setting_has_a_line_of_help() -> None:
    for method, data, body in product(METHODS, ("sine", "folder"), BODIES):
        for name, kind in (of_training(method, data, "wandb", body) | of_evaluation()).items():
            assert help_of(kind) or name.endswith(".name"), name


def test_a_plain_annotation_is_a_declaration_too() -> None:
    """A stranger's `depth: int` says less, and is checked all the same."""
    from typing import Any

    declared: dict[str, Any] = {
        "depth": int,
        "share": float,
        "kind": str,
        "on": bool,
        "sizes": list[int],
        "free": Any,
    }
    check_values(declared, {"depth": 3, "share": 1, "kind": "x", "on": True, "sizes": [1], "free": object()})
    for name, value in {"depth": 1.0, "share": "1", "kind": 3, "on": 1, "sizes": 1}.items():
        with pytest.raises(UserError, match=f"{name}=.*: give "):
            check_values(declared, {name: value})


def test_a_whole_step_size_is_a_number() -> None:
    construct, arguments, _ = callables()[2]
    assert construct(**arguments | {"gamma": 3}).gamma.dtype == torch.float32
