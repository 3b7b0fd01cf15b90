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
from fewshot.data.sine import SineSource
from fewshot.episodes import SPLITS, draw_images, draw_order, random_bits, task_keys

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
    assert tuple(digest(np.round(values.numpy() * 1e6)) for values in drawn[:2]) == WAVES[sign]


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
    assert torch.equal(one[0], other[0])
    keys = task_keys(0, "train", np.arange(3000))
    amplitude = 0.1 + 4.9 * (random_bits(keys, np.uint64(0)) >> np.uint64(11)) * 2.0**-53
    phase = np.pi * (random_bits(keys, np.uint64(1)) >> np.uint64(11)) * 2.0**-53
    for sign, (x, y, _) in ((1, one), (-1, other)):
        expected = amplitude[:, None] * np.sin(x.numpy() + sign * phase[:, None])
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    for values, low, width in ((amplitude, 0.1, 4.9), (phase, 0, np.pi), (x.numpy().ravel(), -5, 10)):
        assert stats.kstest((values - low) / width, "uniform").pvalue > 1e-3
    joint = np.stack([amplitude, phase, *x.numpy().T[:4]])
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
    held_out, training = stream(2, 5, split), stream(2, 6)
    for _ in range(2):
        assert torch.cat([episode.tasks for episode in held_out]).tolist() == list(range(5))
    next(iter(training))  # an epoch that is left early
    for start in (2, 8):
        assert torch.cat([e.tasks for e in training]).tolist() == list(range(start, start + 6))


def test_the_data_module_has_one_stream_per_split():
    """Meta-batches and queries of training must not leak into validation and test."""
    queries = {"train_queries": 4, "val_queries": 5, "test_queries": 6}
    sizes = {"num_val_tasks": 10, "num_test_tasks": 9, "eval_batch_size": 4}
    module = EpisodicDataModule(SineSource(0, 1), 3, 2, 7, train_shots=2, **queries, **sizes)
    loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    found = [(s.split, s.shots, s.queries, s.batch, s.total, len(s)) for s in loaders]
    assert found == [("train", 2, 4, 2, 14, 7), ("val", 3, 5, 4, 10, 3), ("test", 3, 6, 4, 9, 3)]
    episode, (x, y, _) = next(iter(loaders[1])), SineSource(0, 1).draw("val", np.arange(4), 3, 5)
    assert torch.equal(torch.cat([episode.support_x, episode.query_x], 1)[..., 0], x)
    assert torch.equal(torch.cat([episode.support_y, episode.query_y], 1)[..., 0], y)
