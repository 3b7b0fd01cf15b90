"""Settings and variables that reach W&B, and what it keeps of a run."""

import json
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import wandb
from matplotlib.figure import Figure

from fewshot.config.run_id import run_folder
from fewshot.training.run import run as train
from fewshot.training.wandb_log import log, log_test, start_wandb
from tests.helpers import config, stored
from tests.offline import history, records, summary
from tests.test_curves import FEW, curve, images
from tests.test_results import RESULT as OMNIGLOT

RESULT = OMNIGLOT | {
    **{"data": "mini", "trained_on": "mini", "shots": 5, "val_shots": 5, "test_queries": 5},
    **{"mean": 60.0, "ci95": 1.5, "best_step": 40},
}
SCORES = pd.DataFrame({"task": [0, 1], "score": [50.0, 70.0], "nearest_neighbour": [20.0, 20.0]})


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of a run that W&B kept offline."""
    place = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DATA_DIR", str(place / "staged"))
        cfg = images(place, *FEW, "logger=wandb", "logger.pictures=true", "logger.checkpoint=true")
        cfg.predictions = True
        train(cfg)
        yield run_folder(cfg)


def test_curves_are_those_of_metrics_csv(kept):
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        logged = [(row["tasks"], row[metric]) for row in history(kept) if metric in row]
        assert logged == [(2 * step, pytest.approx(value)) for step, value in curve(kept, metric).items()]


def test_every_test_task_is_kept(kept):
    found, result = summary(kept), json.loads((kept / "result.json").read_text())
    [run] = kept.glob("wandb/offline-run-*")
    table = json.loads((run / "files" / found["test/task_scores.path"]).read_text())
    scores = pd.read_csv(kept / "test_scores.csv")
    tasks, own, baseline = zip(*table["data"], strict=True)
    assert table["columns"] == ["task", "score", "nearest_neighbour"]
    assert (list(tasks), list(own)) == (scores["task"].tolist(), scores["score"].tolist())
    assert np.mean(baseline) == pytest.approx(result["baselines"]["nearest_neighbour"])
    assert found["test/tasks"] == len(tasks) == 30
    assert found["test/pictures.count"] == 4
    assert found["test/confusion.ncols"] == 3


def test_the_best_state_is_a_model(kept):
    artifacts = [record.artifact for record in records(kept) if record.HasField("artifact")]
    [model] = [artifact for artifact in artifacts if artifact.type == "model"]
    [entry] = model.manifest.contents
    assert (entry.path, entry.local_path, entry.skip_cache) == ("best.ckpt", str(kept / "best.ckpt"), True)
    assert set(model.aliases) == {"best", "latest"}
    metadata, result = json.loads(model.metadata), json.loads((kept / "result.json").read_text())
    assert metadata.items() <= result.items()
    assert {"mean", "best_validation", "best_step"} <= metadata.keys()


def test_a_failed_upload_loses_no_score(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("wandb.Artifact.add_file", MagicMock(side_effect=OSError("no space left")))
    cfg = config(tmp_path, *FEW, "logger=wandb", "logger.checkpoint=true")
    assert train(cfg)["status"] == "finished"
    assert "OSError: no space left" in capfd.readouterr().err
    assert stored(cfg)["mean"] is not None


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({}, 67.87),  # Table 3
        ({"data": "cub", "test_queries": 15, "run_status": "finished"}, 58.47),  # Table 4
        ({"test_queries": 15}, None),  # another protocol
    ],
)
def test_the_paper_stands_beside_its_own_protocol(change, figure):
    run = MagicMock(summary={})
    log_test(run, "test", RESULT | change, {"task_scores": SCORES}, {})
    assert run.summary.get("test/paper_mean") == figure
    assert run.summary.get("test/paper_difference") == (None if figure is None else 60 - figure)
    names = ("accuracy", "ci95_low", "ci95_high", "tasks")
    assert [run.summary[f"test/{name}"] for name in names] == [60, 58.5, 61.5, 600]


@pytest.mark.parametrize(
    ("data", "publish", "logged"),
    [("mini", False, 0), ("folder", False, 0), ("mini", True, 1), ("sine", False, 1), ("glyphs", False, 1)],
)
def test_images_that_are_not_public_are_withheld(data, publish, logged, tmp_path, monkeypatch):
    monkeypatch.setattr("wandb.run", run := MagicMock(summary={}))
    cfg = config(tmp_path, "logger=wandb", f"logger.pictures={publish}")
    drawn = {"test task 3: 40": Figure(figsize=(1, 1))}
    log(cfg, tmp_path, RESULT | {"data": data, "interpretability": {}}, {"task_scores": SCORES}, drawn)
    assert len(run.log.call_args.args[0].get("test/pictures", [])) == logged
    assert (run.summary["status"], run.summary["best_step"]) == ("finished", 40)
    assert "tasks" not in run.summary  # the axis of the curves keeps its last value


@pytest.fixture
def started(monkeypatch):
    init = MagicMock()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("wandb.init", init)
    return init


def test_variables_and_settings(tmp_path, monkeypatch, started):
    names = ("project", "entity", "group")
    start_wandb(config(tmp_path, "logger=wandb", "method.hidden=[40,20,20]"), tmp_path)
    first = started.call_args.kwargs
    assert [first[name] for name in names] == ["fewshot", None, "sine-1shot-released-reduced"]
    assert first["config"]["method"]["hidden"] == [40, 20, 20]
    assert first["config"]["layers"]["method.hidden"] == 3
    assert first["config"]["units"]["method.hidden"] == 40
    best = {call.args[0]: call.kwargs.get("summary") for call in started().define_metric.call_args_list}
    assert (best["val/accuracy"], best["val/mse"], best["val/loss"]) == ("max", "min", "min")

    for name, value in {"PROJECT": "p", "ENTITY": "e", "RUN_GROUP": "g"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    start_wandb(config(tmp_path, "logger=wandb", "logger.tags=[c]", "logger.project=mine"), tmp_path)
    second = started.call_args.kwargs
    assert [second[name] for name in names] == ["mine", "e", "g"]
    assert set(second["tags"]) == {"c", "lstm", "sine", "1-shot", "released", "mlp"}
    assert second["id"] == first["id"]  # kept in the folder


def test_a_run_is_offline_where_wandb_does_not_start(tmp_path, started):
    cfg, run = config(tmp_path, "logger=wandb"), MagicMock()
    started.side_effect = [wandb.Error("no network"), run]
    assert start_wandb(cfg, tmp_path) is run
    assert started.call_args.kwargs["mode"] == "offline"
