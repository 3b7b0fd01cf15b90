"""Tables: what is written is what is opened, and a failure leaves nothing behind. Glyphs are such a table."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from fewshot.data import glyphs, images
from fewshot.data.images import open_or_prepare
from fewshot.data.table import Example, open_table, write_table
from fewshot.errors import UserError

LABELS = [*["train a"] * 2, *["train b"] * 3, "val c", *["test d"] * 2]
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)


def content():
    """Not in the table's order, which is that of file names whatever their folder."""
    loads = [partial(PIXELS.__getitem__, row) for row in range(8)]
    rows = [Example(*LABELS[i].split(), f"{9 - i}/{i}.png", load) for i, load in enumerate(loads)]
    return rows[::-1], "a note"


def left_in(folder):
    return [file.name for file in folder.iterdir() if not file.name.endswith(".lock")]


def test_round_trip(tmp_path):
    folder = tmp_path / "made"
    (tmp_path / ".made.partial").mkdir()  # what a killed process left
    (tmp_path / ".made.partial" / "images.npy.part").write_bytes(b"half")
    write_table(folder, 4, 3, *content())
    table = open_table(folder)
    assert np.array_equal(table.rows, PIXELS)
    assert table.note == "a note"
    assert list(table.splits["train"].items()) == [("a", range(2)), ("b", range(2, 5))]
    assert table.splits["val"] | table.splits["test"] == {"c": range(5, 6), "d": range(6, 8)}
    assert left_in(tmp_path) == ["made"]
    assert sorted(left_in(folder)) == ["images.npy", "index.json"]
    torch.from_numpy(table.rows)  # without torch's warning about read-only memory
    table.rows[:] = 0
    assert np.array_equal(open_table(folder).rows, PIXELS)  # the file does not change


@pytest.mark.parametrize("error", [UserError("a bad image"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path, error):
    def failing():
        raise error

    broken = [*content()[0], Example("val", "c", "z.png", failing)]
    with pytest.raises(type(error)):
        write_table(tmp_path / "made", 4, 3, broken)
    assert left_in(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(tmp_path / "made", 4, 3, *content())
    assert left_in(tmp_path) == []


def test_two_at_once_prepare_once(tmp_path, monkeypatch):
    calls = []

    def slow(*_):
        calls.append(1)
        time.sleep(0.2)
        return content()

    monkeypatch.setattr(images, "read", slow)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: open_or_prepare("glyphs", tmp_path, tmp_path, 4, 3), range(2)))
    assert (len(calls), len(made)) == (1, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return open_or_prepare("glyphs", folder, folder, 28, 1)


def test_classes_and_faces(made):
    images, counts = made.rows, [len(rows) for classes in made.splits.values() for rows in classes.values()]
    assert 1000 <= len(counts) <= 1800
    assert min(counts) >= glyphs.HANDS * glyphs.MIN_FACES >= 5 + 15  # shots and queries
    assert max(counts) <= glyphs.HANDS * 30
    assert images.shape == (sum(counts), 28, 28, 1)
    assert (images.max(axis=(1, 2, 3)) > 100).all()
    for start, count in zip(np.cumsum(counts) - counts, counts, strict=True):
        assert len({image.tobytes() for image in images[start : start + count]}) == count


def test_split_and_look_alikes(made):
    names = [name for classes in made.splits.values() for name in classes]
    assert len(set(names)) == len(names)
    sizes = [round(len(classes) / len(names), 2) for classes in made.splits.values()]
    assert sizes == [0.64, 0.16, 0.2]
    characters = {name[-1] for name in names}
    assert characters >= glyphs.LETTERS - {"I", "l"}
    assert not characters & set("ΑАΟО")  # Greek and Cyrillic doubles of A and O


@pytest.mark.slow
def test_twice_the_same(made, tmp_path):
    again = open_or_prepare("glyphs", tmp_path, tmp_path, 28, 3)
    assert again.splits == made.splits
    assert np.array_equal(again.rows, made.rows.repeat(3, axis=3))
