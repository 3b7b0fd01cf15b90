"""The variables and options that W&B's users know reach it."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from fewshot.views.loggers import start_wandb
from tests.test_runs import config


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    told: dict[str, Any] = {}
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("wandb.init", lambda **settings: told.update(settings) or MagicMock())
    return told


def test_variables_are_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any]) -> None:
    for name, value in {"PROJECT": "p", "ENTITY": "e", "RUN_GROUP": "g", "NAME": "n", "TAGS": "a,b"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    start_wandb(config(tmp_path, "logger=wandb", "logger.tags=[c]"), tmp_path)
    assert (seen["project"], seen["entity"], seen["group"], seen["name"]) == ("p", "e", "g", "n")
    assert set(seen["tags"]) >= {"a", "b", "c", "lstm", "sine"}
    start_wandb(config(tmp_path, "logger=wandb", "logger.project=mine", "logger.group=mine"), tmp_path)
    assert (seen["project"], seen["group"]) == ("mine", "mine")


def test_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any]) -> None:
    for name in ("PROJECT", "ENTITY", "RUN_GROUP", "NAME", "TAGS"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    start_wandb(config(tmp_path, "logger=wandb"), tmp_path)
    assert (seen["project"], seen["entity"], seen["group"]) == ("fewshot", None, "sine-1shot-released")


def test_the_best_value_is_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = MagicMock()
    monkeypatch.setattr("wandb.init", lambda **_: run)
    monkeypatch.setenv("WANDB_MODE", "offline")
    start_wandb(config(tmp_path, "logger=wandb"), tmp_path)
    told = {call.args[0]: call.kwargs.get("summary") for call in run.define_metric.call_args_list}
    assert (told["val/accuracy"], told["val/mse"], told["val/loss"]) == ("max", "min", "min")
