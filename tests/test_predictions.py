"""What is kept of every test query, and what is made of it."""

import json
from pathlib import Path
from unittest.mock import MagicMock

import pandas as pd
import pytest

from fewshot.config.compose import composed
from fewshot.config.run_id import run_folder
from fewshot.plots.confusion import MOST, confusion_figure
from fewshot.results.predictions import class_accuracies, confusions
from fewshot.training.evaluate import evaluate
from fewshot.training.train import train
from fewshot.training.wandb_log import log_predictions
from tests.test_runs import config, evaluation

SMALL = [
    "data=glyphs",
    "method=protonet",
    "backbone.widths=[8]",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
]


@pytest.mark.usefixtures("composed_once")
def test_a_run_and_an_evaluation_keep_their_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With names of classes and unchanged scores."""
    monkeypatch.setattr("fewshot.training.train.test_figures", lambda *_, **__: [])  # they take long
    plain, kept = config(tmp_path, *SMALL), config(tmp_path, *SMALL, "predictions=true", outputs="kept")
    assert run_folder(plain).name == run_folder(kept).name
    assert train(plain)["mean"] == train(kept)["mean"]
    folder = run_folder(kept)
    own = (folder / "test_scores.csv").read_bytes()
    assert (run_folder(plain) / "test_scores.csv").read_bytes() == own
    found = pd.read_csv(folder / "predictions.csv")
    assert list(found.columns) == ["task", "query", "true", "predicted", "probability"]
    right = found["true"] == found["predicted"]
    scores = pd.read_csv(folder / "test_scores.csv", index_col="task")["score"]
    assert (100 * right.groupby(found["task"]).mean()).to_numpy() == pytest.approx(
        scores.to_numpy(), rel=1e-6
    )
    assert found.groupby("task")["true"].nunique().eq(5).all()
    tested = {name for name, _ in json.loads((folder / "split.json").read_text())["test"]}
    assert {*found["true"], *found["predicted"]} <= tested
    assert found["probability"].between(0.2, 1).all()
    assert "confused most often" in capsys.readouterr().out
    assert (folder / "confusion.png").stat().st_size > 1000

    evaluate(evaluation(folder, tmp_path, predictions=True))
    [again] = (folder / "evaluations").glob("*-predictions.csv")
    assert again.read_bytes() == (folder / "predictions.csv").read_bytes()
    assert len([*(folder / "evaluations").glob("*-confusion.png")]) == 1
    capsys.readouterr()
    train(config(tmp_path, *SMALL, "predictions=true"))
    assert f"evaluate.py run={run_folder(plain)} predictions=true" in capsys.readouterr().err


@pytest.mark.usefixtures("composed_once")
def test_predictions_of_waves(tmp_path: Path) -> None:
    small = [
        "data=sine",
        "method=lstm",
        "shots=5",
        "method.hidden=[4]",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
    ]
    cfg = config(tmp_path, *small, "predictions=true")
    result = train(cfg)
    found = pd.read_csv(run_folder(cfg) / "predictions.csv")
    assert list(found.columns) == ["task", "query", "target", "prediction"]
    assert (found["target"] - found["prediction"]).pow(2).mean() == pytest.approx(result["mean"], rel=1e-5)


def example() -> pd.DataFrame:
    rows = [
        ("a", "a"),
        ("a", "b"),
        ("b", "b"),
        ("b", "b"),
        ("c", "a"),
        ("c", "a"),
        ("c", "c"),
        ("a", "b"),
        ("a", "a"),
    ]
    return pd.DataFrame(rows, columns=["true", "predicted"])


def test_accuracies_and_confusions() -> None:
    accuracies = class_accuracies(example())
    assert accuracies["queries"].to_dict() == {"c": 3, "a": 4, "b": 2}
    assert accuracies["accuracy"].to_dict() == {"c": pytest.approx(100 / 3), "a": 50, "b": 100}
    assert list(accuracies.index) == ["c", "a", "b"]
    pairs = confusions(example()).set_index(["true", "predicted"])["queries"].to_dict()
    assert pairs == {("a", "a"): 2, ("a", "b"): 2, ("b", "b"): 2, ("c", "a"): 2, ("c", "c"): 1}


def test_the_confusion_matrix() -> None:
    """Rows are true classes; of many classes those with the most wrong queries are shown."""
    shares = confusion_figure(example(), "title").axes[0].images[0].get_array()
    assert shares.tolist() == [[50, 50, 0], [0, 100, 0], [pytest.approx(200 / 3), 0, pytest.approx(100 / 3)]]
    right = pd.DataFrame({"true": [f"right_{n}" for n in range(60)]}).assign(predicted=lambda f: f["true"])
    many = confusion_figure(pd.concat([example(), right]), "title").axes[0]
    assert many.images[0].get_array().shape == (MOST, MOST)
    assert f"{MOST} of 63 classes" in many.get_title(loc="left")
    assert {"a", "c"} <= {label.get_text() for label in many.get_yticklabels()}


def test_wandb_gets_a_table() -> None:
    run = MagicMock()
    log_predictions(run, "test", example())
    [[logged]] = [call.args for call in run.log.call_args_list]
    assert logged["test/confusion"].columns == ["true", "predicted", "queries"]
    log_predictions(run, "test", None)
    assert run.log.call_count == 1


def test_the_setting_is_off() -> None:
    assert composed([]).predictions is False
    assert composed([], "evaluate").predictions is False
