"""Curves for those who live in TensorBoard."""

import importlib.util
from pathlib import Path

import pytest
from fewshot.training.run import run as train

from fewshot.config import checks
from fewshot.config.run_id import run_folder
from fewshot.errors import UserError
from tests.test_curves import curve
from tests.test_runs import config, kill_at

pytestmark = pytest.mark.usefixtures("undrawn")


def test_its_curves_are_those_of_metrics_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that was killed after update 25 was logged, and goes on from 24, too."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = config(tmp_path, "logger=tensorboard")
    kill_at(27, cfg, monkeypatch)
    train(cfg)
    events = EventAccumulator(str(run_folder(cfg) / "tensorboard"))
    events.Reload()
    for metric in ("train/loss", "val/loss", "val/mse"):
        logged = [(event.step, event.value) for event in events.Scalars(metric)]
        assert logged == [
            (step, pytest.approx(value)) for step, value in curve(run_folder(cfg), metric).items()
        ]


def test_it_is_refused_before_any_work_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "tensorboard" else there(name))
    cfg = config(tmp_path, "logger=tensorboard")
    with pytest.raises(UserError, match=r"^logger=tensorboard needs tensorboard: pip install tensorboard$"):
        train(cfg)
    assert not run_folder(cfg).exists()
