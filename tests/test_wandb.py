"""The variables and options that W&B's users know reach it, and what it keeps of a run."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import wandb
from fewshot.training.run import run as train

from fewshot.config.run_id import run_folder
from fewshot.training.loggers import staged_in, start_wandb
from fewshot.training.wandb_log import log_test
from tests.offline import history, records, summary
from tests.test_curves import FEW, curve, images
from tests.test_plots import RESULT
from tests.test_runs import config


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run that W&B kept offline, beside an empty `home`."""
    place = tmp_path_factory.mktemp("wandb")
    (place / "home").mkdir()
    wandb.teardown()  # its service, which an earlier test may have started in another home
    with pytest.MonkeyPatch.context() as patch:
        for name in [
            name
            for name in os.environ
            if name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") or name.startswith("XDG_")
        ]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("HOME", str(place / "home"))
        cfg = images(place, *FEW, "logger=wandb", "logger.pictures=true", "logger.checkpoint=true")
        train(cfg)
        yield run_folder(cfg)


def run_of(folder: Path) -> Path:
    [offline] = folder.glob("wandb/offline-run-*")
    return offline


def test_its_curves_are_those_of_metrics_csv(kept: Path) -> None:
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        logged = [(row["tasks"], row[metric]) for row in history(kept) if metric in row]
        assert logged == [(2 * step, pytest.approx(value)) for step, value in curve(kept, metric).items()]


def test_every_test_task_is_kept(kept: Path) -> None:
    told = summary(kept)
    table = json.loads((run_of(kept) / "files" / told["test/task_scores.path"]).read_text())
    with (kept / "test_scores.csv").open(newline="") as file:
        scores = [[int(row["task"]), float(row["score"])] for row in csv.DictReader(file)]
    assert table["columns"] == ["task", "score", "nearest_neighbour"]
    assert [row[:2] for row in table["data"]] == scores
    result = json.loads((kept / "result.json").read_text())
    assert np.mean([row[2] for row in table["data"]]) == pytest.approx(
        result["baselines"]["nearest_neighbour"]
    )
    expected = np.histogram([score for _, score in scores], told["test/scores.bins"])[0]
    assert told["test/scores.values"] == expected.tolist()
    assert told["test/tasks"] == sum(expected) == 30


@pytest.mark.parametrize(
    ("told", "figure"),
    [
        ({}, 67.87),  # of Table 3
        ({"data": "cub", "test_queries": 15, "run_status": "finished"}, 58.47),  # a further test, of Table 4
        ({"test_queries": 15}, None),  # another protocol
        ({"config_diff": {"method.lr": 0.1}}, None),
    ],
)
def test_the_paper_stands_beside_its_own_protocol(told: dict[str, Any], figure: float | None) -> None:
    run = MagicMock(summary={})
    log_test(run, "test", RESULT | {"test_queries": 5} | told)
    assert run.summary.get("test/paper_mean") == figure
    assert run.summary.get("test/paper_difference") == (None if figure is None else 60 - figure)


def test_nothing_is_staged_in_the_home_folder(kept: Path) -> None:
    """It may be small, or another one where the run is synced; tables and files are staged in the run's own."""
    assert not list((kept.parents[4] / "home").rglob("*wandb*"))
    files = [entry.local_path for told in artifacts(kept) for entry in told.manifest.contents]
    assert len(files) > 2
    assert all(Path(file).is_relative_to(kept) for file in files)


def artifacts(folder: Path) -> list[Any]:
    return [record.artifact for record in records(folder) if record.HasField("artifact")]


def test_the_best_state_is_a_model_on_request(kept: Path, tmp_path: Path) -> None:
    """With what it scored, and from where it lies: a copy of a large one would fill the run's folder."""
    [model] = [told for told in artifacts(kept) if told.type == "model"]
    result = json.loads((kept / "result.json").read_text())
    [entry] = model.manifest.contents
    assert (entry.path, entry.local_path, entry.skip_cache) == ("best.ckpt", str(kept / "best.ckpt"), True)
    assert set(model.aliases) == {"best", "latest"}
    told = json.loads(model.metadata)
    assert told == {key: result[key] for key in told}
    assert {"mean", "best_validation", "best_step"} <= told.keys()
    cfg = config(tmp_path, *FEW, "logger=wandb")
    train(cfg)
    assert {told.type for told in artifacts(run_folder(cfg))} == {"run_table"}  # tables, and no model unasked


def test_a_score_does_not_fall_with_an_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("wandb.Artifact.add_file", full)
    cfg = config(tmp_path, *FEW, "logger=wandb", "logger.checkpoint=true")
    assert train(cfg)["status"] == "finished"
    assert "W&B did not take the result: OSError: no space left" in capfd.readouterr().err
    assert json.loads((run_folder(cfg) / "result.json").read_text())["mean"] is not None


def test_where_it_stages_may_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", "mine")
    monkeypatch.delenv("WANDB_CACHE_DIR", raising=False)
    for cell in (tmp_path / "one", tmp_path / "two"):
        with staged_in(cell):
            assert os.environ["WANDB_DATA_DIR"] == "mine"
            assert os.environ["WANDB_CACHE_DIR"] == str(cell / "wandb")
    assert "WANDB_CACHE_DIR" not in os.environ


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    told: dict[str, Any] = {}
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("wandb.init", lambda **settings: told.update(settings) or MagicMock())
    return told


def test_variables_are_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any]
) -> None:
    for name, value in {"PROJECT": "p", "ENTITY": "e", "RUN_GROUP": "g", "NAME": "n", "TAGS": "a,b"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    start_wandb(config(tmp_path, "logger=wandb", "logger.tags=[c]"), tmp_path)
    assert (seen["project"], seen["entity"], seen["group"], seen["name"]) == ("p", "e", "g", "n")
    assert set(seen["tags"]) >= {"a", "b", "c", "lstm", "sine"}
    start_wandb(config(tmp_path, "logger=wandb", "logger.project=mine", "logger.group=mine"), tmp_path)
    assert (seen["project"], seen["group"]) == ("mine", "mine")


def test_lists_of_layers_are_numbers_too(tmp_path: Path, seen: dict[str, Any]) -> None:
    start_wandb(config(tmp_path, "logger=wandb", "method.hidden=[40,20,20]"), tmp_path)
    assert seen["config"]["method"]["hidden"] == [40, 20, 20]
    assert (seen["config"]["layers"]["method"], seen["config"]["units"]["method"]) == (
        {"hidden": 3},
        {"hidden": 40},
    )


def test_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any]) -> None:
    for name in ("PROJECT", "ENTITY", "RUN_GROUP", "NAME", "TAGS"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    start_wandb(config(tmp_path, "logger=wandb"), tmp_path)
    assert (seen["project"], seen["entity"], seen["group"]) == ("fewshot", None, "sine-1shot-released-shrunk")


def test_the_best_value_is_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = MagicMock()
    monkeypatch.setattr("wandb.init", lambda **_: run)
    monkeypatch.setenv("WANDB_MODE", "offline")
    start_wandb(config(tmp_path, "logger=wandb"), tmp_path)
    told = {call.args[0]: call.kwargs.get("summary") for call in run.define_metric.call_args_list}
    assert (told["val/accuracy"], told["val/mse"], told["val/loss"]) == ("max", "min", "min")
