"""What a run warns of at its end, and what it does not."""

import math
from pathlib import Path
from typing import Any

import pytest

from fewshot.methods.base import MetaLearner
from fewshot.results.diagnostics import diagnostics
from fewshot.results.record import read_result, show
from fewshot.training.run import run as train
from tests.helpers import config, rows

pytestmark = pytest.mark.usefixtures("undrawn")

SOUND = {
    "status": "finished",
    "mean": 60.0,
    "ci95": 1.0,
    "metric": "accuracy",
    "baselines": {"nearest_neighbour": 50.0, "chance": 20.0},
    "precision": "32-true",
    "tf32": False,
}
SHAPE = {
    "ways": 5,
    "shots": 1,
    "train_ways": 5,
    "train_shots": 1,
    "train_queries": 15,
    "test_queries": 1,
    "bn": "transductive",
}
WAVES = {
    "mean": 0.1,
    "ci95": 0.01,
    "metric": "mse",
    "baselines": {"support_mean": 4.0},
    "ways": 1,
    "bn": "none",
}


def told(tmp_path: Path, curves: dict[str, list[float]] | None = None, **other: Any) -> list[str]:
    """The signs of a result that is sound but for `other`, with these curves."""
    path = tmp_path / "metrics.csv"
    lines = [
        f"{10 * n},{n},{name},{v}" for name, values in (curves or {}).items() for n, v in enumerate(values)
    ]
    path.write_text("\n".join(["tasks,step,metric,value", *lines]) + "\n")
    return diagnostics(SHAPE | SOUND | other, path)


def test_a_sound_run_warns_of_nothing(tmp_path: Path) -> None:
    curves = {
        "val/accuracy": [20, 40, 60, 58.5, 61],  # 58.5 is within both intervals of 60
        "val/ci95": [1.0] * 5,
        "train/gradient_norm": [1.0, 2.0, 500.0, 1.0],
    }
    assert told(tmp_path, curves) == []
    assert told(tmp_path, **WAVES) == []
    assert diagnostics(SHAPE | SOUND, tmp_path / "missing.csv") == []  # logger=none
    assert told(tmp_path, mean=None, ci95=None, floors={}) == []  # out of time: no test


@pytest.mark.parametrize(
    ("mean", "ci95", "warns"), [(20.9, 1.0, True), (21.1, 1.0, False), (15.0, 1.0, True)]
)
def test_chance(mean: float, ci95: float, warns: bool, tmp_path: Path) -> None:
    found = told(tmp_path, mean=mean, ci95=ci95)
    expected = f"it never left chance: {mean:.4g} ± {ci95:.4g} in the test, and a guess has 20"
    assert found == [expected] * warns


@pytest.mark.parametrize("rounded", [{"tf32": True}, {"precision": "bf16-mixed"}])
def test_rounded_products_may_be_why(rounded: dict[str, Any], tmp_path: Path) -> None:
    [sign] = told(tmp_path, mean=20.0, ci95=0.0, **rounded)
    assert sign.endswith("; rounding may hide small differences, so try trainer.precision=32-true")
    assert told(tmp_path, **rounded) == []


@pytest.mark.parametrize(("mean", "warns"), [(3.8, False), (3.95, True), (5.0, True)])
def test_chance_on_waves_is_the_mean_of_the_support_set(mean: float, warns: bool, tmp_path: Path) -> None:
    found = told(tmp_path, **WAVES | {"mean": mean, "ci95": 0.1})
    assert ["never left chance" in sign for sign in found] == [True] * warns


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ({"ways": 2}, 2),
        ({"ways": 3, "shots": 5, "train_shots": 5}, 3),  # of its queries
        ({"ways": 2, "shots": 5, "train_shots": 5, "test_queries": 15}, None),
        ({"ways": 2, "train_ways": 30, "shots": 5, "test_queries": 15}, None),
        ({"ways": 5, "train_ways": 2}, 2),
        ({"ways": 3, "bn": "support"}, 3),
        ({"ways": 2, "bn": "stored"}, None),
        ({"ways": 2, "bn": "none"}, None),
    ],
)
def test_batch_norm_of_a_handful(shape: dict[str, Any], size: int | None, tmp_path: Path) -> None:
    assert told(tmp_path, **shape) == [f"batch norm sees {n} examples at a time" for n in [size] if n]


def test_gradients_that_vanish_or_blow_up(tmp_path: Path) -> None:
    assert "vanished" in told(tmp_path, {"train/gradient_norm": [1.0, 1e-9, 1e-9, 0.0]})[0]
    assert "75%" in told(tmp_path, {"train/gradient_norm": [1.0, 1e-9, 1e-9, 0.0]})[0]
    [sign] = told(tmp_path, {"train/gradient_norm": [1.0, 1.0, 2000.0, 1.0, 1.0]})
    assert sign == "the gradient blew up: its norm was 2e+03 after 20 tasks, 1 as a rule"


def test_curves_of_an_older_run_and_of_one_that_scaled_its_loss(tmp_path: Path) -> None:
    """No intervals before it was gone on with; infinite norms while a scaler for 16 bits looks for its scale."""
    later = {"val/accuracy": [20, 40, 60], "val/ci95": [math.nan, math.nan, 1.0]}
    assert told(tmp_path, later) == []
    assert told(tmp_path, {"train/gradient_norm": [math.inf, 1.0, 2.0]}) == []


def test_training_that_changes_little(tmp_path: Path) -> None:
    assert told(tmp_path, {"val/mse": [4.0, 4.5, 3.9], "val/ci95": [0.5] * 3}, **WAVES) == [
        "no validation was better than the one before training by more than their intervals: 4, 3.9 at best"
    ]


def test_validation_that_jumps(tmp_path: Path) -> None:
    curves = {"val/mse": [4.0, 0.08, 1.7, 0.09, 0.2], "val/ci95": [0.1, 0.01, 0.2, 0.01, 0.03]}
    [sign] = told(tmp_path, curves, **WAVES)
    assert sign.startswith(
        "validation got worse by more than its intervals in 2 of 4 steps, most from 0.08 to 1.7 "
    )
    assert "after 20 tasks" in sign
    accuracies = {"val/accuracy": [20, 60, 40, 65], "val/ci95": [1.0] * 4}
    assert "in 1 of 3 steps, most from 60 to 40" in told(tmp_path, accuracies)[0]


def test_a_run_keeps_and_tells_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = config(tmp_path, "method.lr=1e-12")  # which learns nothing
    result = train(cfg)
    [warning] = result["warnings"]
    assert "no validation was better" in warning
    assert f"warning: {warning}" in capfd.readouterr().out
    [file] = tmp_path.rglob("result.json")
    kept = read_result(file)
    assert kept is not None
    show(kept, None)
    assert f"warning: {warning}" in capfd.readouterr().out
    logged = {row["metric"]: float(row["value"]) for row in rows(file.parent / "metrics.csv")}
    assert logged["train/gradient_norm"] > 0
    assert logged["val/ci95"] > 0


def test_a_run_that_failed_keeps_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(MetaLearner, "losses", fail)
    assert train(config(tmp_path))["status"] == "failed"
    [file] = tmp_path.rglob("result.json")
    kept = read_result(file)
    assert kept is not None
    assert kept["reason"] == "RuntimeError: it broke"
    assert kept["warnings"] == []
