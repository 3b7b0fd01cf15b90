"""The seeded draw: recorded words and tasks, nesting, independence of the meta-batch, and resuming in the
middle."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot.data.datamodule import EpisodicDataModule, TaskStream
from fewshot.data.image_source import ImageSource
from fewshot.data.sine import SineSource
from fewshot.data.table import Classes, Table
from fewshot.episodes import SPLITS, draw_images, draw_order, random_bits, task_keys
from fewshot.errors import UserError

COUNTS = np.array([20, 7, 31, 9, 12, 20, 8, 45, 6, 14, 11, 10], dtype=np.int64)
STARTS = 100 + np.concatenate([[0], np.cumsum(COUNTS)[:-1]])
quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)
splits = st.sampled_from(SPLITS)
numbers = st.integers(0, 2**40)


def draw(tasks, seed=0, split="train", ways=5, examples=6):
    return draw_images(seed, split, np.asarray(tasks, dtype=np.int64), STARTS, COUNTS, ways, examples)


def digest(values):
    return hashlib.sha256(np.ascontiguousarray(values).astype("<i8").tobytes()).hexdigest()[:16]


RECORDED = {  # the keys of tasks 0 and 17, then hashes of images and orders
    "train": ([6332618229526065668, 8248495297299237157], "87308c49da9f985e", "4161c7686941f4f2"),
    "val": ([18201609923829866926, 12404058825221892808], "4f654f6cbdcfcdf5", "0ae02f7ce2ad963b"),
    "test": ([6938366530895179, 5082318205020178129], "f9bfad570b47cdde", "9ed93b6d7526657b"),
}
WAVES = {1: ("c7a221ce108e55f0", "ca4c4581110894b1"), -1: ("c7a221ce108e55f0", "1413843f95b3c0b8")}


def test_words_are_splitmix64():
    """The published outputs of SplitMix64 for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    words = random_bits(np.array([1234567], dtype=np.uint64), np.arange(4, dtype=np.uint64))
    assert words.tolist() == published


@pytest.mark.parametrize("split", SPLITS)
def test_draws_are_recorded(split):
    """The same tasks on every machine and with every version of a library."""
    keys, images, orders = RECORDED[split]
    assert task_keys(42, split, np.array([0, 17])).tolist() == keys
    assert digest(draw(np.arange(50), seed=1337, split=split)) == images
    assert digest(draw_order(1337, split, np.arange(50), 5)) == orders


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("sign", WAVES)
def test_waves_are_recorded(sign):
    """In millionths, so that the last digits of a platform's sine do not matter."""
    drawn = SineSource(seed=1337, sign=sign).draw("test", np.arange(20), 5, 10)
    assert tuple(digest(np.round(drawn[name].numpy() * 1e6)) for name in ("x", "y")) == WAVES[sign]


@quick
@given(seeds, splits, st.lists(numbers, min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 6))
def test_draws_are_without_replacement_and_inside_their_class(seed, split, tasks, ways, examples):
    """Unequal classes: distinct classes, distinct images, and every row one of its class, the smallest
    too."""
    rows = draw(tasks, seed, split, ways, examples)
    assert rows.shape == (len(tasks), ways, examples)
    classes = np.searchsorted(STARTS, rows, side="right") - 1
    assert (classes == classes[..., :1]).all()
    assert (rows >= STARTS[classes]).all()
    assert (rows < (STARTS + COUNTS)[classes]).all()
    for task in range(len(tasks)):
        assert len(set(classes[task, :, 0])) == ways
        assert len(set(rows[task].ravel())) == ways * examples


@quick
@given(seeds, splits, st.lists(numbers, min_size=1, max_size=6, unique=True), st.data())
def test_a_task_does_not_depend_on_its_batch(seed, split, tasks, data):
    order = data.draw(st.permutations(range(len(tasks))))[: data.draw(st.integers(1, len(tasks)))]
    assert (draw([tasks[i] for i in order], seed, split) == draw(tasks, seed, split)[order]).all()


@quick
@given(seeds, splits, numbers, st.integers(1, 5), st.integers(0, 4), st.integers(1, 6), st.integers(0, 6))
def test_draws_nest(seed, split, task, few, more, ways, others):
    """The 1-shot support set is part of the 5-shot one, the classes of 5 ways are among those of 20."""
    few = min(few, 6 - more)
    large = draw([task], seed, split, ways=ways + others, examples=few + more)
    assert (draw([task], seed, split, ways=ways, examples=few) == large[:, :ways, :few]).all()


@pytest.mark.usefixtures("float64")
def test_sine_is_what_it_says():
    """y = A sin(x + sign p) with uniform A, p and x; the same A, p and x for both signs."""
    one, other = (SineSource(0, sign).draw("train", np.arange(3000), 5, 15) for sign in (1, -1))
    assert torch.equal(one["x"], other["x"])
    keys = task_keys(0, "train", np.arange(3000))
    amplitude = 0.1 + 4.9 * (random_bits(keys, np.uint64(0)) >> np.uint64(11)) * 2.0**-53
    phase = np.pi * (random_bits(keys, np.uint64(1)) >> np.uint64(11)) * 2.0**-53
    for sign, drawn in ((1, one), (-1, other)):
        expected = amplitude[:, None] * np.sin(drawn["x"].numpy() + sign * phase[:, None])
        np.testing.assert_allclose(drawn["y"].numpy(), expected, rtol=1e-12, atol=1e-12)
    for values, low, width in ((amplitude, 0.1, 4.9), (phase, 0, np.pi), (one["x"].numpy().ravel(), -5, 10)):
        assert stats.kstest((values - low) / width, "uniform").pvalue > 1e-3
    joint = np.stack([amplitude, phase, *one["x"].numpy().T[:4]])
    assert np.abs(np.corrcoef(joint) - np.eye(6)).max() < 0.07  # no word serves twice


def stream(batch, total, split="train"):
    made = TaskStream(SineSource(0, 1), split, 2, 3, batch, total)
    made.at_once = 6
    return made


@pytest.mark.parametrize(("batch", "updates"), [(1, 1), (2, 3), (5, 6)])
def test_a_resumed_stream_continues_with_the_next_batch(batch, updates):
    """A run stopped after any update of any epoch sees the same tasks as one that was not stopped."""
    first = stream(batch, batch * updates)
    expected = [*first, *first, *first]
    assert torch.cat([episode.tasks for episode in expected]).tolist() == list(range(3 * batch * updates))
    for seen in range(2 * updates + 1):
        stopped, resumed = stream(batch, batch * updates), stream(batch, batch * updates)
        episodes = (episode for _ in range(3) for episode in stopped)
        for _ in range(seen):
            next(episodes)
        assert stopped.state_dict() == {"next": seen}
        resumed.load_state_dict(stopped.state_dict())
        rest = [episode for _ in range(3) for episode in resumed][: 3 * updates - seen]
        for here, there in zip(rest, expected[seen:], strict=True):
            assert all(map(torch.equal, here, there))


@pytest.mark.parametrize("split", ["val", "test"])
def test_only_training_has_new_tasks_in_each_epoch(split):
    held_out, training = stream(2, 5, split), stream(2, 5)
    for _ in range(2):
        assert torch.cat([episode.tasks for episode in held_out]).tolist() == list(range(5))
    next(iter(training))  # looking at a task changes nothing
    for start in (0, 5):
        assert torch.cat([e.tasks for e in training]).tolist() == list(range(start, start + 5))


def test_the_data_module_has_one_stream_per_split():
    """Meta-batches and queries of training must not leak into validation and test."""
    queries = {"train_queries": 4, "val_queries": 5, "test_queries": 6}
    sizes = {"num_val_tasks": 10, "num_test_tasks": 9, "eval_batch_size": 4}
    module = EpisodicDataModule(SineSource(0, 1), 3, 2, 7, train_shots=2, **queries, **sizes)
    loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    found = [(s.split, s.shots, s.queries, s.batch, s.total, len(s)) for s in loaders]
    assert found == [("train", 2, 4, 2, 14, 7), ("val", 3, 5, 4, 10, 3), ("test", 3, 6, 4, 9, 3)]
    episode, drawn = next(iter(loaders[1])), SineSource(0, 1).draw("val", np.arange(4), 3, 5)
    assert torch.equal(torch.cat([episode.support_x, episode.query_x], 1)[..., 0], drawn["x"].float())
    assert torch.equal(torch.cat([episode.support_y, episode.query_y], 1)[..., 0], drawn["y"].float())


def image_source(ways=3, seed=0):
    """Ten classes of nine one-pixel images a split; a pixel's value says its class."""
    classes = Classes(tuple(map(str, range(10))), np.arange(0, 90, 9), np.full(10, 9))
    images = np.repeat(np.arange(10), 9).astype(np.uint8)[:, None, None, None]
    return ImageSource(seed, Table(images, dict.fromkeys(SPLITS, classes), ""), ways)


def test_training_tasks_may_have_more_ways():
    """The first classes of a training task, and validation and test, stay as they are."""
    plain = image_source()
    source = ImageSource(0, plain.table, 3, train_ways=7)
    classes, tasks = plain.table.splits["train"], np.arange(4)
    for split, ways in (("train", 7), ("val", 3), ("test", 3)):
        drawn = source.draw(split, tasks, 2, 4)
        expected = draw_images(0, split, tasks, classes.starts, classes.counts, ways, 6)
        assert np.array_equal(drawn["index"], expected)
        assert source.episode(drawn, 2).query_y.unique().tolist() == list(range(ways))
        assert [len(names) for names in source.class_names(split, tasks)] == [ways] * 4
    assert (source.task.outputs, source.task.train_outputs) == (3, 7)
    with pytest.raises(UserError, match=r"^data.train_ways=11 is more than the 10 train classes"):
        ImageSource(0, plain.table, 3, train_ways=11).check("train", 1, 1)
    with pytest.raises(UserError, match=r"^data.ways=11 is more than the 10 train classes"):
        ImageSource(0, plain.table, 11).check("train", 1, 1)


def image_episode(source, tasks, shots, queries=2):
    return source.episode(source.draw("train", np.array(tasks), shots, queries), shots)


@quick
@given(seeds, st.lists(numbers, min_size=1, max_size=4), st.integers(1, 6), st.integers(2, 3))
def test_a_label_is_one_class_in_support_and_queries(seed, tasks, shots, ways):
    batch = image_episode(image_source(ways, seed), tasks, shots)
    for b in range(len(tasks)):
        sets = ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y))
        support, queries = (set(zip(y[b].tolist(), x[b].flatten().tolist(), strict=True)) for x, y in sets)
        assert support == queries
        assert len(support) == ways
        assert batch.support_y[b].bincount().tolist() == [shots] * ways
        assert batch.query_y[b].tolist() == sorted(batch.query_y[b].tolist())


def long_tail(ways=3):
    """Seven classes of 9, 1, 9, 4, 9, 9 and 2 one-pixel images a split; a pixel's value says its class."""
    counts = np.array([9, 1, 9, 4, 9, 9, 2])
    classes = Classes(tuple("abcdefg"), np.cumsum(counts) - counts, counts)
    images = np.repeat(np.arange(7), counts).astype(np.uint8)[:, None, None, None]
    return ImageSource(0, Table(images, dict.fromkeys(SPLITS, classes), ""), ways)


def test_classes_with_too_few_images_are_left_out(capsys):
    source = long_tail()
    queries = {"train_queries": 4, "val_queries": 3, "test_queries": 15}
    module = EpisodicDataModule(source, 1, 4, 10, **queries, num_val_tasks=200)
    module.setup("validate")
    module.setup("validate")  # as Lightning does
    assert capsys.readouterr().err.count("\n") == 1
    names = module.class_names("val", range(200))
    assert {name for task in names for name in task} == set("acdef")
    drawn = module.episode("val", range(200))
    shown = [["abcdefg"[round(255 * x)] for x in task[::3].tolist()] for task in drawn.query_x.flatten(1)]
    assert shown == names
    fewer = module.episode("val", range(200), queries=1)  # the same tasks
    assert torch.equal(fewer.query_x, drawn.query_x[:, ::3])
    others = EpisodicDataModule(source, 2, 4, 10, val_queries=7)
    others.setup("validate")
    assert {name for task in others.class_names("val", range(200)) for name in task} == set("acef")
    assert module.class_names("val", range(200)) == names
    with pytest.raises(UserError, match=r"data.ways=3 is more than the 0 test classes with 16 images"):
        module.setup("test")
