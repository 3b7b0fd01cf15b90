"""What stands beside what: a score's protocol decides whether the paper's figure is shown, and how it is named."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from fewshot.config.compose import composed
from fewshot.config.run_id import config_diff, run_folder
from fewshot.results.environment import git_commit, installed_version
from fewshot.results.paper import (
    ACROSS,
    FIGURE_5,
    FIGURES,
    TABLE_A1,
    WITHIN,
    of_figure_5,
    of_tables,
    paper_figure,
)
from fewshot.results.protocol import Protocol
from fewshot.results.record import score_line
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run as train
from tests.helpers import config, evaluation, images_of

pytestmark = pytest.mark.usefixtures("undrawn")

RESULT: dict[str, Any] = {
    "status": "finished",
    "data": "omniglot",
    "trained_on": "omniglot",
    "method": "oplstm",
    "ways": 5,
    "shots": 1,
    "val_shots": 1,
    "test_queries": 1,
    "tasks": 600,
    "variant": "released",
    "config_diff": {},
    "metric": "accuracy",
    "mean": 84.0,
    "ci95": 1.0,
    "bn": "transductive",
}


def test_the_papers_figure_stands_beside_its_protocol() -> None:
    assert paper_figure(RESULT) == WITHIN["omniglot", "oplstm"][1] == 84.27
    assert paper_figure(RESULT | {"data": "cub", "trained_on": "mini", "test_queries": 15}) == 42.33
    assert score_line(RESULT).endswith("paper, mean of 3 runs: 84.27%)")


@pytest.mark.parametrize(
    "change",
    [
        {"test_queries": 15},
        {"variant": "paper"},
        {"config_diff": {"method.lr": 0.1}},
        {"config_diff": {"backbone.widths": [64, 64]}},
        {"config_diff": {"x": [[{"y": None}]]}},
        {"tasks": 100},
        {"val_shots": 5},
        {"data": "glyphs"},
        {"trained_on": "mini"},
        {"ways": 10},
        {"status": "timeout"},
        {"status": "diverged"},
        {"run_status": "timeout"},
        {"run_status": "unfinished"},
        {"bn": "support", "train_bn": "transductive"},
    ],
    ids=str,
)
def test_the_papers_figure_stands_beside_nothing_else(change: dict[str, Any]) -> None:
    assert paper_figure(RESULT | change) is None
    assert "paper" not in score_line(RESULT | change)


def test_every_part_of_a_protocol_counts() -> None:
    protocol = Protocol.of(RESULT)
    others = {int: 99, str: "other", tuple: (("x", "1"),)}
    for field in fields(Protocol):
        value = getattr(protocol, field.name)
        assert FIGURES.get(("oplstm", replace(protocol, **{field.name: others[type(value)]}))) is None, (
            field.name
        )


def test_more_ways_in_training_are_not_the_papers() -> None:
    cfg = composed(["data=omniglot", "method=protonet", "data.train_ways=20"])
    assert config_diff(cfg) == {"data.train_ways": 20}
    plain = RESULT | {"method": "protonet"}
    assert paper_figure(plain) == 83.60
    assert paper_figure(plain | {"config_diff": config_diff(cfg)}) is None


def test_a_score_names_its_protocol() -> None:
    assert "(5-way 1-shot, 600 tasks, 1 query a class, bn" in score_line(RESULT)
    across = {"ways": 10, "shots": 5, "val_shots": 1, "trained_on": "mini", "data": "cub", "test_queries": 15}
    line = score_line(RESULT | across | {"run_status": "timeout"})
    assert (
        "(10-way 5-shot, 600 tasks, 15 queries a class, trained on mini, trained for 1-shot, run timeout, bn"
        in line
    )
    sine = {"data": "sine", "trained_on": "sine", "ways": 1, "test_queries": 50, "metric": "mse", "shots": 5}
    assert "(5-shot, 600 tasks, 50 queries, trained for 1-shot, bn" in score_line(RESULT | sine)
    assert Protocol.of(RESULT | across).file_name("cub") == "cub-10way-5shot-15queries-600tasks"


def test_another_batch_norm_in_the_test_is_another_protocol() -> None:
    support = Protocol.of(RESULT | {"bn": "support", "train_bn": "transductive"})
    assert ", tested with bn support" in str(support)
    assert support.file_name("mini") == "mini-5way-1shot-1queries-600tasks-bn-support"
    same = [RESULT, RESULT | {"train_bn": "transductive"}, RESULT | {"train_bn": None}]
    assert {Protocol.of(result) for result in same} == {Protocol.of(RESULT)} != {support}
    assert Protocol.of(RESULT | {"bn": "support", "train_bn": "support"}) == Protocol.of(RESULT)


def test_no_number_of_the_paper_hides_another() -> None:
    tables = [*WITHIN.values(), *ACROSS.values(), *(means for _, _, means in FIGURE_5), TABLE_A1]
    assert (
        len(FIGURES) == len([*of_tables(WITHIN, ACROSS, TABLE_A1), *of_figure_5()]) == sum(map(len, tables))
    )


@pytest.mark.parametrize("shots", [1, 8])
@pytest.mark.parametrize(
    ("support", "figures"), [("set", {1: 72.60, 8: 87.35}), ("sequence", {1: 66.00, 8: 41.31})]
)
def test_figure_5_on_omniglot_has_its_numbers(support: str, figures: dict[int, float], shots: int) -> None:
    cfg = composed(
        ["experiment=figure5-omniglot", f"shots={shots}", f"method.support_mode={support}", "seed=42"]
    )
    found = {
        "method": "lstm",
        "config_diff": config_diff(cfg),
        "shots": shots,
        "val_shots": shots,
        "test_queries": shots,
    }
    assert paper_figure(RESULT | found) == figures[shots]


@pytest.mark.parametrize(("support", "figure"), [("set", 0.0064), ("sequence", 0.0056)])
def test_figure_5_on_sine_has_its_numbers(support: str, figure: float) -> None:
    cfg = composed(["data=sine", "method=lstm", "shots=30", f"method.support_mode={support}"])
    found = {
        "method": "lstm",
        "data": "sine",
        "trained_on": "sine",
        "ways": 1,
        "tasks": 2000,
        "test_queries": 50,
    }
    assert (
        paper_figure(RESULT | found | {"config_diff": config_diff(cfg), "shots": 30, "val_shots": 30})
        == figure
    )


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_sap_as_released_has_the_papers_figure(variant: str) -> None:
    """Centred transformations are not what made its table."""
    cfg = composed(["data=mini", "method=sap", f"variant={variant}"])
    centred = composed(
        ["data=mini", "method=sap", f"variant={variant}", f"method.centred={variant == 'released'}"]
    )
    found = {"method": "sap", "data": "mini", "trained_on": "mini", "variant": variant}
    assert config_diff(cfg) == {}
    assert paper_figure(RESULT | found) == (52.96 if variant == "released" else None)
    assert paper_figure(RESULT | found | {"config_diff": config_diff(centred)}) is None


def test_a_result_names_every_option_unlike_the_papers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Under variant=paper too, where nothing is changed; not where the paper has no table."""
    result = train(config(tmp_path, "variant=paper"))
    told = {"variant": "paper", "data.sign": -1, "method.pool_cell": True, "method.first_labels": True}
    assert result["differs_from_paper"].items() >= told.items()
    assert "unlike what made the paper's table: " in (out := capfd.readouterr().out)
    assert "variant=paper" in out
    assert "method.pool_cell=true" in out
    assert not result["published_settings"]
    whole = composed(["data=omniglot", "method=oplstm", "variant=paper"])
    assert config_diff(whole) == {}
    assert config_diff(whole, "released") == {
        "variant": "paper",
        "method.normalisation": "example",
        "method.gamma": 0.025,
        "method.pool_state": True,
        "method.softmax": True,
        "method.preactivation": False,
    }
    unknown = train(config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10"))
    assert unknown["differs_from_paper"] is None
    assert "unlike" not in capfd.readouterr().out


def test_a_run_that_did_not_finish_is_told_as_such(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    limit = ["trainer.max_time=00:00:00:01", "trainer.max_steps=1000000", "trainer.val_check_interval=1000"]
    cfg = config(tmp_path, *limit)
    train(cfg)
    evaluate(evaluation(run_folder(cfg), tmp_path))
    assert ", run timeout, bn none; mean of the support set " in capfd.readouterr().out


def test_a_result_needs_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("git")

    monkeypatch.setattr("subprocess.run", run)
    assert git_commit() is None
    assert installed_version("no-such-package") == "unknown"


def test_a_test_of_another_state_is_no_entry(tmp_path: Path) -> None:
    """As of one that evaluate.py began before the run had ended."""
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    images_of(tmp_path, "other")
    train(cfg)
    place = run_folder(cfg) / "result.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"best_step": 99}))
    evaluate(evaluation(run_folder(cfg), tmp_path, path=str(tmp_path / "other")))
    assert "tests" not in json.loads(place.read_text())


def test_classes_that_were_trained_on_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A copy of the run's folder, in which fewer classes have moved the cut between training and test."""
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    train(cfg)
    images_of(tmp_path, "copy")
    for name, _ in json.loads((run_folder(cfg) / "split.json").read_text())["test"]:
        shutil.rmtree(tmp_path / "copy" / name)
    evaluate(evaluation(run_folder(cfg), tmp_path, path=str(tmp_path / "copy")))
    assert "test classes are called as some that the run was trained on: class" in capfd.readouterr().err


def test_other_ways_have_a_name_of_their_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10", "data.ways=2")
    images_of(tmp_path, "other")
    train(cfg)
    evaluate(evaluation(run_folder(cfg), tmp_path, path=str(tmp_path / "other")))
    out = capfd.readouterr().out
    assert "(2-way 1-shot, 30 tasks, 1 query a class, bn" in out
    assert "(2-way 1-shot, 30 tasks, 15 queries a class, trained on folder, bn" in out
