"""Glyphs: enough classes of enough distinct faces, the same every time."""

import numpy as np
import pytest

from fewshot.data import glyphs
from fewshot.data.table import Content


@pytest.fixture(scope="module")
def made() -> tuple[Content, np.ndarray]:
    content = glyphs.content(28, 1)
    return content, np.stack([image for _, image in content.images])


def test_classes_and_faces(made: tuple[Content, np.ndarray]) -> None:
    content, images = made
    counts = [count for classes in content.counts.values() for count in classes.values()]
    assert 1000 <= len(counts) <= 1800
    assert min(counts) >= glyphs.MIN_FACES
    assert max(counts) <= 30
    assert images.shape == (sum(counts), 28, 28, 1)
    assert str(glyphs.MIN_FACES) in content.note


def test_images_of_a_class_are_distinct(made: tuple[Content, np.ndarray]) -> None:
    content, images = made
    start = 0
    for classes in content.counts.values():
        for name, count in classes.items():
            assert len({image.tobytes() for image in images[start : start + count]}) == count, name
            start += count
    assert (images.max(axis=(1, 2, 3)) > 100).all()
    assert (images[:, [0, -1]] == 0).all()  # a margin on every side
    assert (images[:, :, [0, -1]] == 0).all()


def test_split_and_look_alikes(made: tuple[Content, np.ndarray]) -> None:
    content, _ = made
    names = [name for classes in content.counts.values() for name in classes]
    assert len(set(names)) == len(names)
    assert [round(len(classes) / len(names), 2) for classes in content.counts.values()] == [0.64, 0.16, 0.2]
    characters = {name[-1] for name in names}
    assert characters >= glyphs.LETTERS - {"I", "l"}
    assert not characters & set("ΑАΟО")  # Greek and Cyrillic doubles of A and O


def test_twice_the_same(made: tuple[Content, np.ndarray]) -> None:
    content, images = made
    again = glyphs.content(28, 3)
    assert again.counts == content.counts
    assert np.array_equal(np.stack([image for _, image in again.images]), images.repeat(3, axis=3))
