"""Tables: what is written is what is opened, damage is noticed, and a failure leaves nothing behind."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot.data import table
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
    opened = open_table(folder)
    assert np.array_equal(opened.images, PIXELS)
    assert opened.note == "a note"
    assert opened.splits["train"].names == ("a", "b")
    assert opened.splits["train"].counts.tolist() == [2, 3]
    assert [opened.splits[split].starts.tolist() for split in COUNTS] == [[0, 2], [5], [6]]
    assert left_in(folder.parent) == ["made"]
    assert torch.from_numpy(opened.images).shape == (
        8,
        *SHAPE,
    )  # without torch's warning about read-only memory


def test_the_file_cannot_be_changed_through_a_table(folder: Path) -> None:
    open_table(folder).images[:] = 0
    assert np.array_equal(open_table(folder).images, PIXELS)


def test_second_call_opens(folder: Path) -> None:
    def never() -> Content:
        raise AssertionError("prepared twice")

    assert open_or_write(folder, SHAPE, never).note == "a note"


def truncate(folder: Path) -> None:
    file = folder / "images.npy"
    file.write_bytes(file.read_bytes()[:-1])


def other_array(folder: Path) -> None:
    file = folder / "images.npy"
    size = file.stat().st_size
    np.save(file, np.zeros((8, *SHAPE), dtype=np.int8))
    assert file.stat().st_size == size


def other_shape(folder: Path) -> None:
    np.save(folder / "images.npy", PIXELS.reshape(8, 4, 12))
    index = json.loads((folder / "index.json").read_text())
    index["bytes"] = (folder / "images.npy").stat().st_size
    (folder / "index.json").write_text(json.dumps(index))


def fewer_rows(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["splits"]["test"] = [["d", 1]]
    (folder / "index.json").write_text(json.dumps(index))


def old_format(folder: Path) -> None:
    (folder / "index.json").write_text(json.dumps({"format": 0}))


def pickled(folder: Path) -> None:
    np.save(folder / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    index = json.loads((folder / "index.json").read_text())
    index["bytes"] = (folder / "images.npy").stat().st_size
    (folder / "index.json").write_text(json.dumps(index))


def foreign(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "holiday.txt").write_text("")


def not_json(folder: Path) -> None:
    (folder / "index.json").write_text("[]")


def nested(folder: Path) -> None:
    (folder / "index.json").write_text("[" * 10**5)


def counted(folder: Path, *classes: tuple[str, object]) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["splits"] |= {"val": classes[:1], "test": classes[1:]}
    (folder / "index.json").write_text(json.dumps(index))


def beyond_any_number(folder: Path) -> None:
    counted(folder, ("c", 10**30), ("d", 2))


def around_the_corner(folder: Path) -> None:
    counted(folder, ("c", 2**63 - 1), ("d", 2**63 - 1), ("e", 5))  # 3 in 64 bits


def in_part(folder: Path) -> None:
    counted(folder, ("c", 1.5), ("d", 1.5))


def a_class_in_two_splits(folder: Path) -> None:
    counted(folder, ("a", 1), ("d", 2))


def of_another_name(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"name": "omniglot-28-grey"}))


LIES = [nested, beyond_any_number, around_the_corner, in_part, a_class_in_two_splits, of_another_name]


@pytest.mark.parametrize(
    "damage", [truncate, other_array, other_shape, fewer_rows, old_format, pickled, foreign, not_json, *LIES]
)
def test_damage_is_named(folder: Path, damage) -> None:
    damage(folder)
    with pytest.raises(UserError, match="delete it") as error:
        open_or_write(folder, SHAPE, content)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_of_other_images_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"holds images of \(4, 4, 3\), not of \(5, 5, 3\): delete it"):
        open_or_write(folder, (5, 5, 3), content)


@pytest.mark.parametrize("error", [UserError("a bad image"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_failure_in_the_middle_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def images() -> Iterator[tuple[int, np.ndarray]]:
        yield 0, PIXELS[0]
        raise error

    with pytest.raises(type(error)):
        open_or_write(tmp_path / "made", SHAPE, lambda: Content(COUNTS, images()))
    assert left_in(tmp_path) == []


def test_lost_rows_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="1 images were never read"):
        open_or_write(tmp_path / "made", SHAPE, lambda: Content(COUNTS, list(content().images)[1:]))
    assert left_in(tmp_path) == []


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(table.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="MB free"):
        open_or_write(tmp_path / "made", SHAPE, content)
    assert left_in(tmp_path) == []


def test_disk_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        open_or_write(tmp_path / "made", SHAPE, content)
    assert left_in(tmp_path) == []


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot prepare"):
        open_or_write(tmp_path / "file" / "made", SHAPE, content)


def test_two_at_once_prepare_once(tmp_path: Path) -> None:
    calls, tables = [], []

    def slow() -> Content:
        calls.append(1)
        made = content()
        threading.Event().wait(0.2)
        return made

    def work() -> None:
        tables.append(open_or_write(tmp_path / "made", SHAPE, slow))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(tables) == 2
