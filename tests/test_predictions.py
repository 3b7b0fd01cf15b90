"""What is kept of every test query, and what is made of it."""

import json
import re

import pandas as pd
import pytest

from fewshot.config.run_id import run_folder
from fewshot.results.predictions import MOST, confusion_figure, show_predictions
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run as train
from tests.helpers import config, evaluation
from tests.test_curves import images

FEW = ["trainer.max_steps=2", "trainer.val_check_interval=2"]


@pytest.mark.usefixtures("undrawn")
def test_a_run_and_an_evaluation_keep_their_predictions(tmp_path, capsys):
    plain = images(tmp_path, *FEW)
    cfg = images(tmp_path, *FEW, "predictions=true", f"paths.outputs={tmp_path / 'kept'}")
    folder = run_folder(cfg)
    assert run_folder(plain).name == folder.name
    assert train(plain)["mean"] == train(cfg)["mean"]
    assert "confused most often" in capsys.readouterr().out
    assert (folder / "confusion.png").exists()
    found = pd.read_csv(folder / "predictions.csv")
    assert list(found.columns) == ["task", "query", "true", "predicted", "probability"]
    right = 100 * (found["true"] == found["predicted"]).groupby(found["task"]).mean()
    scores = pd.read_csv(folder / "test_scores.csv", index_col="task")["score"]
    assert right.to_numpy() == pytest.approx(scores.to_numpy(), rel=1e-6)
    assert found.groupby("task")["true"].nunique().eq(2).all()
    tested = {name for name, _ in json.loads((folder / "split.json").read_text())["test"]}
    assert {*found["true"], *found["predicted"]} <= tested
    assert found["probability"].between(0.5, 1).all()

    evaluate(evaluation(folder, tmp_path, predictions=True))
    [again] = (folder / "evaluations").iterdir()
    tables = ("predictions.csv", "test_scores.csv")
    assert {path.name for path in again.iterdir()} == {
        *tables,
        "result.json",
        "confusion.png",
        "confusion.pdf",
    }
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in tables)


def test_predictions_and_pictures_of_waves(tmp_path):
    cfg = config(tmp_path, "shots=5", "method.hidden=[4]", *FEW, "predictions=true")
    train(cfg)
    found = pd.read_csv(run_folder(cfg) / "predictions.csv")
    assert list(found.columns) == ["task", "query", "target", "prediction"]
    mse = ((found["target"] - found["prediction"]) ** 2).groupby(found["task"]).mean()
    scores = pd.read_csv(run_folder(cfg) / "test_scores.csv", index_col="task")["score"]
    assert mse.to_numpy() == pytest.approx(scores.to_numpy(), rel=1e-5)
    evaluate(evaluation(run_folder(cfg), tmp_path, pictures=True))
    drawn = [path.name for path in run_folder(cfg).glob("evaluations/*/*.png")]
    assert sorted(drawn) == [f"test_task_{n}.png" for n in range(4)]


def example():
    return pd.DataFrame({"true": list("aabbcccaa"), "predicted": list("abbbaacba")})


def test_accuracies_and_confusions(capsys):
    show_predictions(example())
    printed = capsys.readouterr().out
    assert re.findall(r"^(\w) +([\d.]+)$", printed, re.M) == [("c", "33.3"), ("a", "50.0"), ("b", "100.0")]
    assert re.findall(r"(\w) +(\w) +(\d)$", printed, re.M) == [("a", "b", "2"), ("c", "a", "2")]


def test_the_confusion_matrix():
    """Rows are true classes; of many classes those with the most wrong queries are shown."""
    shares = confusion_figure(example(), "title").axes[0].images[0].get_array()
    assert shares.tolist() == [[50, 50, 0], [0, 100, 0], [pytest.approx(200 / 3), 0, pytest.approx(100 / 3)]]
    names = [f"right_{n}" for n in range(60)]
    right = pd.DataFrame({"true": names, "predicted": names})
    many = confusion_figure(pd.concat([example(), right]), "title").axes[0]
    assert many.images[0].get_array().shape == (MOST, MOST)
    assert f"{MOST} of 63 classes" in many.get_title(loc="left")
    assert {"a", "c"} <= {label.get_text() for label in many.get_yticklabels()}
