"""A run continues a finished shorter one to the result, bit for bit, of a run that was never shorter."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from fewshot.config.run_id import run_folder
from fewshot.training import extend
from fewshot.training.run import run
from tests.helpers import check_same, config, images_of, kill_at

pytestmark = pytest.mark.usefixtures("composed_once", "undrawn")
START = "continues the finished run of {} updates in {}\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with a run of 20 updates, and in a folder of its own one of 40."""
    folder = tmp_path_factory.mktemp("extend")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot.training.record.draw", lambda *_: [])
        run(config(folder, "trainer.max_steps=20"))
        run(config(folder, outputs="alone"))
    return folder


def copied(finished: Path, tmp_path: Path) -> Path:
    """The folder of a copy of the run of 20 updates."""
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    return run_folder(config(tmp_path, "trainer.max_steps=20"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def check_continued(cfg: DictConfig, alone: DictConfig) -> None:
    """That all is the same, also the last state with its optimiser's."""
    check_same(cfg, alone)
    last = [torch.load(run_folder(c) / "last.ckpt", weights_only=True) for c in (cfg, alone)]
    for key in ("state_dict", "optimizer_states", "global_step", "loops"):
        assert str(last[0][key]) == str(last[1][key])


@pytest.mark.parametrize(("updates", "killed"), [(20, 0), (25, 31)])
def test_a_longer_run_continues(
    updates: int,
    killed: int,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also from a length that is no multiple of val_check_interval, and where it is killed and resumed."""
    short, cfg = config(tmp_path, f"trainer.max_steps={updates}"), config(tmp_path)
    run(short)
    before = contents(run_folder(short))
    capfd.readouterr()
    if killed:
        kill_at(killed, cfg, monkeypatch)
    else:
        run(cfg)
    assert START.format(updates, run_folder(short)) in capfd.readouterr().err
    check_continued(cfg, config(finished, outputs="alone"))
    assert contents(run_folder(short)) == before


def test_the_longest_shorter_run_continues_on_images(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = [*images_of(tmp_path), "method=protonet", "trainer.num_val_tasks=4"]
    runs = [config(tmp_path, *small, f"trainer.max_steps={updates}") for updates in (10, 15, 30, 20)]
    for cfg in runs:
        run(cfg)
    assert START.format(15, run_folder(runs[1])) in capfd.readouterr().err
    check_continued(runs[3], config(tmp_path, *small, "trainer.max_steps=20", outputs="alone"))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("trainer.val_check_interval=20", "val_check_interval was 10 and is 20"),
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
    run(config(tmp_path, *[setting] * ("=" in setting)))
    err = capfd.readouterr().err
    line = f"does not continue the finished run of 20 updates in {folder}: {why}\n"
    assert (line in err) == (why is not None)
    assert "\ncontinues" not in err
    assert "update 0 of 40" in err


DAMAGE: dict[str, Callable[[Path], object]] = {
    "last.ckpt is garbage": lambda folder: (folder / "last.ckpt").write_bytes(b"garbage"),
    "best.ckpt is missing": lambda folder: (folder / "best.ckpt").unlink(),
    "metrics.csv is missing": lambda folder: (folder / "metrics.csv").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shorter_run_does_not_break_a_longer_one(
    damage: str, finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path)
    DAMAGE[damage](folder)
    before = contents(folder)
    check_continued(config(tmp_path), config(finished, outputs="alone"))
    assert contents(folder) == before
