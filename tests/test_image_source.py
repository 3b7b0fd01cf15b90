"""Tasks of images: labels, ways, and classes that have too few images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.image_source import ImageSource
from fewshot.data.table import Table
from fewshot.episodes import SPLITS, draw_images
from fewshot.errors import UserError

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)
numbers = st.integers(0, 2**40)


def image_source(ways=3, seed=0, counts=(9,) * 10):
    """Classes of so many one-pixel images in each split; a pixel's value says its class."""
    ends = np.cumsum(counts).tolist()
    rows = zip("abcdefghij", counts, ends, strict=False)
    classes = {name: range(end - count, end) for name, count, end in rows}
    images = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)[:, None, None, None]
    return ImageSource(seed, Table(images, dict.fromkeys(SPLITS, classes), ""), ways)


def test_training_tasks_may_have_more_ways():
    """The first classes of a training task, and validation and test, stay as they are."""
    plain = image_source()
    source = ImageSource(0, plain.table, 3, train_ways=7)
    starts, counts, tasks = np.arange(0, 90, 9), np.full(10, 9), np.arange(4)
    for split, ways in (("train", 7), ("val", 3), ("test", 3)):
        drawn = source.draw(split, tasks, 2, 4)
        expected = draw_images(0, split, tasks, starts, counts, ways, 6)
        assert np.array_equal(drawn[0], expected)
        assert source.episode(drawn, 2).query_y.unique().tolist() == list(range(ways))
        assert [len(names) for names in source.class_names(split, tasks)] == [ways] * 4
    assert (source.task.outputs, source.task.train_outputs) == (3, 7)
    with pytest.raises(UserError, match=r"^11 ways need as many train classes; 10 have"):
        ImageSource(0, plain.table, 3, train_ways=11).check("train", 1, 1)


@quick
@given(seeds, st.lists(numbers, min_size=1, max_size=4), st.integers(1, 6), st.integers(2, 3))
def test_a_label_is_one_class_in_support_and_queries(seed, tasks, shots, ways):
    source = image_source(ways, seed)
    batch = source.episode(source.draw("train", np.array(tasks), shots, 2), shots)
    for b in range(len(tasks)):
        sets = ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y))
        support, queries = (set(zip(y[b].tolist(), x[b].flatten().tolist(), strict=True)) for x, y in sets)
        assert support == queries
        assert len(support) == ways
        assert batch.support_y[b].bincount().tolist() == [shots] * ways
        assert batch.query_y[b].tolist() == sorted(batch.query_y[b].tolist())


def test_classes_with_too_few_images_are_left_out(capsys):
    source = image_source(counts=(9, 1, 9, 4, 9, 9, 2))
    queries = {"train_queries": 4, "val_queries": 3, "test_queries": 15}
    module = EpisodicDataModule(source, 1, 4, 10, **queries, num_val_tasks=200)
    module.setup("validate")
    module.setup("validate")  # as Lightning does
    assert capsys.readouterr().err.count("\n") == 1
    names = module.source.class_names("val", np.arange(200))
    assert {name for task in names for name in task} == set("acdef")
    drawn = module.episode("val", range(200))
    shown = [["abcdefg"[round(255 * x)] for x in task[::3].tolist()] for task in drawn.query_x.flatten(1)]
    assert shown == names
    fewer = module.episode("val", range(200), queries=1)  # the same tasks
    assert torch.equal(fewer.query_x, drawn.query_x[:, ::3])
    others = EpisodicDataModule(source, 2, 4, 10, val_queries=7)
    others.setup("validate")
    assert {name for task in others.source.class_names("val", np.arange(200)) for name in task} == set("acef")
    assert module.source.class_names("val", np.arange(200)) == names
    with pytest.raises(UserError, match="3 ways need as many test classes; 0 have 16 examples"):
        module.setup("test")
