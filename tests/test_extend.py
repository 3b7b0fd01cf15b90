"""A run continues a finished shorter one to the result, bit for bit, of a run that was never shorter."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from fewshot.config.run_id import run_folder
from fewshot.training import extend
from fewshot.training.run import run as train
from tests.helpers import MEASURED, config, images_of, kill_at, rows

pytestmark = pytest.mark.usefixtures("composed_once", "undrawn")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with runs of 20 and of 40 updates, the latter in a folder of its own."""
    place = tmp_path_factory.mktemp("extend")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot.training.record.draw", lambda *_: [])
        train(config(place, "trainer.max_steps=20"))
        train(config(place, outputs="whole"))
    return place


def copied(finished: Path, tmp_path: Path) -> Path:
    """The folder of a copy of the run of 20 updates."""
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    return run_folder(config(tmp_path, "trainer.max_steps=20"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def same(one: DictConfig, other: DictConfig) -> None:
    """Results, scores of tasks, curves, and both states with the optimiser's, bit for bit."""
    here, there = run_folder(one), run_folder(other)
    one_result, other_result = (json.loads((folder / "result.json").read_text()) for folder in (here, there))
    assert one_result | dict.fromkeys(MEASURED) == other_result | dict.fromkeys(MEASURED)
    assert (here / "test_scores.csv").read_bytes() == (there / "test_scores.csv").read_bytes()
    assert rows(here / "metrics.csv") == rows(there / "metrics.csv")
    for name in ("best.ckpt", "last.ckpt"):
        states = [torch.load(folder / name, weights_only=True) for folder in (here, there)]
        for key in ("state_dict", "optimizer_states", "global_step", "loops"):
            assert str(states[0].get(key)) == str(states[1].get(key))
        pairs = zip(states[0]["state_dict"].values(), states[1]["state_dict"].values(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(("updates", "killed"), [(20, 0), (25, 31)])
def test_a_longer_run_continues(
    updates: int,
    killed: int,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also from a length that is no multiple of val_check_interval; and when it is killed and resumed."""
    short = run_folder(config(tmp_path, f"trainer.max_steps={updates}"))
    train(config(tmp_path, f"trainer.max_steps={updates}"))
    before, cfg = contents(short), config(tmp_path)
    capfd.readouterr()
    if killed:
        kill_at(killed, cfg, monkeypatch)
        assert f"continues the finished run of {updates} updates in {short}\n" in capfd.readouterr().err
    train(cfg)
    assert killed or f"continues the finished run of {updates} updates in {short}\n" in capfd.readouterr().err
    same(cfg, config(finished, outputs="whole"))
    assert contents(short) == before


def test_an_image_run_continues(tmp_path: Path) -> None:
    small = [*images_of(tmp_path), "method=protonet", "trainer.num_val_tasks=4"]
    train(config(tmp_path, *small, "trainer.max_steps=10"))
    for outputs in ("outputs", "whole"):
        train(config(tmp_path, *small, "trainer.max_steps=20", outputs=outputs))
    same(
        config(tmp_path, *small, "trainer.max_steps=20"),
        config(tmp_path, *small, "trainer.max_steps=20", outputs="whole"),
    )


def test_the_longest_of_several_continues(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copied(finished, tmp_path)
    train(config(tmp_path, "trainer.max_steps=10"))
    train(config(tmp_path, "trainer.max_steps=50"))
    capfd.readouterr()
    train(config(tmp_path))
    assert "continues the finished run of 20 updates" in capfd.readouterr().err
    same(config(tmp_path), config(finished, outputs="whole"))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("trainer.val_check_interval=20", "val_check_interval was 10 and is 20"),
        ("trainer.log_every_n_steps=10", "log_every_n_steps was 5 and is 10"),
        ("trainer.eval_batch_size=6", "eval_batch_size was 12 and is 6"),
        ("threads", "threads was 7 and is 1"),
        ("compiled", "compiled was False and is True"),
        ("overwrite=true", None),
    ],
)
def test_where_it_would_differ_it_starts_from_scratch(
    setting: str,
    why: str | None,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = copied(finished, tmp_path)
    if setting == "compiled":
        monkeypatch.setattr(extend, "wanted", lambda *_: True)
    if setting == "threads":
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {"threads": 7}))
    train(config(tmp_path, *[setting] * ("=" in setting)))
    errors = capfd.readouterr().err
    line = f"does not continue the finished run of 20 updates in {folder}: {why}\n"
    assert (line in errors) == (why is not None)
    assert "\ncontinues" not in errors
    assert "update 0 of 40" in errors


def garbage(name: str) -> Any:
    return lambda folder: (folder / name).write_bytes(b"garbage")


def spoilt(how: Any) -> Any:
    def spoil(folder: Path) -> None:
        state = torch.load(folder / "last.ckpt", weights_only=True)
        how(state)
        torch.save(state, folder / "last.ckpt")

    return spoil


DAMAGE: dict[str, Any] = {
    **{f"{name} is garbage": garbage(name) for name in ("last.ckpt", "config.yaml")},
    **{
        f"{name} is missing": lambda f, name=name: (f / name).unlink()
        for name in ("best.ckpt", "metrics.csv")
    },
    "another best state": lambda folder: shutil.copy(folder / "last.ckpt", folder / "best.ckpt"),
    "another update": spoilt(lambda state: state.update(global_step=7)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shorter_run_does_not_break_a_longer_one(
    damage: str, finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path)
    DAMAGE[damage](folder)
    before = contents(folder)
    assert train(config(tmp_path))["status"] == "finished"
    same(config(tmp_path), config(finished, outputs="whole"))
    assert contents(folder) == before
