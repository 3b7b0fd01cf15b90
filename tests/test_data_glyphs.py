"""Glyphs: enough classes of enough distinct faces, each distorted in ways of its own, the same every time."""

import numpy as np
import pytest

from fewshot.data import glyphs
from fewshot.data.images import open_or_prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return open_or_prepare("glyphs", folder, folder, 28, 1)


def test_classes_and_faces(made):
    images, counts = made.images, np.concatenate([classes.counts for classes in made.splits.values()])
    assert 1000 <= len(counts) <= 1800
    assert min(counts) >= glyphs.HANDS * glyphs.MIN_FACES >= 5 + 15  # shots and queries
    assert max(counts) <= glyphs.HANDS * 30
    assert images.shape == (sum(counts), 28, 28, 1)
    assert (images.max(axis=(1, 2, 3)) > 100).all()
    for start, count in zip(np.cumsum(counts) - counts, counts, strict=True):
        assert len({image.tobytes() for image in images[start : start + count]}) == count


def test_split_and_look_alikes(made):
    names = [name for classes in made.splits.values() for name in classes.names]
    assert len(set(names)) == len(names)
    sizes = [round(len(classes.names) / len(names), 2) for classes in made.splits.values()]
    assert sizes == [0.64, 0.16, 0.2]
    characters = {name[-1] for name in names}
    assert characters >= glyphs.LETTERS - {"I", "l"}
    assert not characters & set("ΑАΟО")  # Greek and Cyrillic doubles of A and O


@pytest.mark.slow
def test_twice_the_same(made, tmp_path):
    again = open_or_prepare("glyphs", tmp_path, tmp_path, 28, 3)
    assert again.splits["test"].names == made.splits["test"].names
    assert np.array_equal(again.images, made.images.repeat(3, axis=3))


def distorted(picture: np.ndarray, key: str) -> np.ndarray:
    return glyphs._distorted(picture.tobytes(), key, len(picture))


def test_distortions_are_as_large_as_stated(monkeypatch):
    """Each draw at both ends, against what it does to a stem's angle, extent and middle."""
    draws = dict.fromkeys(("turn", "slant", "wide", "high", "across", "down"), 0.0)
    monkeypatch.setattr(glyphs, "uniform", lambda *_: np.array(list(draws.values())))

    def seen(**drawn):
        draws.update(dict.fromkeys(draws, 0.0) | drawn)
        ink = distorted(bar, "any") > 127
        rows, columns = ink.nonzero()
        lean = np.polyfit(rows, columns, 1)[0]
        return np.array([lean, np.ptp(columns) + 1, np.ptp(rows) + 1, columns.mean(), rows.mean()])

    bar = np.zeros((112, 112), dtype=np.uint8)
    bar[32:80, 54:58] = 255
    plain = seen()
    assert np.allclose(plain, [0, 4, 48, 55.5, 55.5], atol=0.01)
    for sign in (-1, 1):
        assert seen(turn=sign)[0] == pytest.approx(-sign * np.tan(np.deg2rad(15)), abs=0.02)
        assert abs(seen(slant=sign)[0]) == pytest.approx(0.15, abs=0.02)
        assert seen(high=sign)[2] == pytest.approx(48 * 1.15**-sign, abs=1)
        assert seen(across=sign)[3] - plain[3] == sign * 112 // 14
        assert seen(down=sign)[4] - plain[4] == sign * 112 // 14
    bar = bar.T.copy()
    assert [seen(wide=sign)[1] for sign in (-1, 1)] == pytest.approx([48 * 1.15, 48 / 1.15], abs=1)
