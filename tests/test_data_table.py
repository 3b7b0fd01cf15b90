"""Tables: what is written is what is opened, and a failure leaves nothing behind."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot.data.table import Content, open_or_write, open_table
from fewshot.errors import UserError

COUNTS = {"train": {"a": 2, "b": 3}, "val": {"c": 1}, "test": {"d": 2}}
SHAPE = (4, 4, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), dtype=np.uint8)


def content() -> Content:
    return Content(COUNTS, ((row, PIXELS[row]) for row in reversed(range(8))), "a note")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    open_or_write(tmp_path / "made", SHAPE, content)
    return tmp_path / "made"


def left_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if not file.name.endswith(".lock")]


def test_round_trip(folder: Path) -> None:
    table = open_table(folder)
    assert np.array_equal(table.images, PIXELS)
    assert table.note == "a note"
    assert table.splits["train"].names == ("a", "b")
    assert table.splits["train"].counts.tolist() == [2, 3]
    assert [table.splits[split].starts.tolist() for split in COUNTS] == [[0, 2], [5], [6]]
    assert left_in(folder.parent) == ["made"]
    torch.from_numpy(table.images)  # without torch's warning about read-only memory
    table.images[:] = 0
    assert np.array_equal(open_table(folder).images, PIXELS)  # the file does not change


@pytest.mark.parametrize("name", ["images.npy", "index.json"])
def test_an_incomplete_copy_is_named(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(UserError, match="is incomplete"):
        open_or_write(folder, SHAPE, content)
    (folder / name).unlink()
    with pytest.raises(UserError, match="is incomplete"):
        open_or_write(folder, SHAPE, content)


@pytest.mark.parametrize("error", [UserError("a bad image"), KeyboardInterrupt(), None])
def test_a_failure_leaves_nothing(tmp_path: Path, error: BaseException | None) -> None:
    def images() -> Iterator[tuple[int, np.ndarray]]:
        yield 0, PIXELS[0]
        if error:
            raise error

    with pytest.raises(type(error) if error else ValueError):  # or where images are missing
        open_or_write(tmp_path / "made", SHAPE, lambda: Content(COUNTS, images()))
    assert left_in(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        open_or_write(tmp_path / "made", SHAPE, content)
    assert left_in(tmp_path) == []


def test_two_at_once_prepare_once(tmp_path: Path) -> None:
    calls, tables = [], []

    def slow() -> Content:
        calls.append(1)
        threading.Event().wait(0.2)
        return content()

    def work() -> None:
        tables.append(open_or_write(tmp_path / "made", SHAPE, slow))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(tables) == 2
