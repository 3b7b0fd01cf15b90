"""The seeded draw: recorded words and tasks, nesting, independence of the meta-batch, and resuming in the middle."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from fewshot.data.datamodule import EpisodicDataModule, TaskStream
from fewshot.data.image_source import ImageSource
from fewshot.data.sine import SineSource
from fewshot.data.table import Classes, Table
from fewshot.episodes import SPLITS, Episode, draw_images, draw_order, random_bits, task_keys, uniform
from fewshot.errors import UserError
from tests.test_learners import LEARNERS, make_named

COUNTS = np.array([20, 7, 31, 9, 12, 20, 8, 45, 6, 14, 11, 10], dtype=np.int64)
STARTS = 100 + np.concatenate([[0], np.cumsum(COUNTS)[:-1]])
quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)
splits = st.sampled_from(SPLITS)
numbers = st.integers(0, 2**40)


def draw(
    tasks: list[int] | NDArray, seed: int = 0, split: str = "train", ways: int = 5, examples: int = 6
) -> NDArray:
    return draw_images(seed, split, np.asarray(tasks, dtype=np.int64), STARTS, COUNTS, ways, examples)


def digest(values: NDArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).astype("<i8").tobytes()).hexdigest()


def micro(values: Tensor) -> NDArray[np.int64]:
    """Millionths, so that the last digits of a platform's sine do not matter."""
    return np.round(values.numpy() * 1e6).astype(np.int64)


# ---------------------------------------------------------------- recorded values
KEYS = {
    "train": [6332618229526065668, 8248495297299237157],
    "val": [18201609923829866926, 12404058825221892808],
    "test": [6938366530895179, 5082318205020178129],
}
IMAGES = {
    "train": "87308c49da9f985e492146d040fbe2698280d9a869252586d2abd48680c89dff",
    "val": "4f654f6cbdcfcdf5f496404d8043bd5bae512b8cb9800e5fae1b022ea03945c4",
    "test": "f9bfad570b47cdde81ff097ab43ab1c5e1ad8090ff48b6b4f13dafd2ec3154b5",
}
ORDERS = {
    "train": "4161c7686941f4f24c4e7d1373a3d936b42d7c2daefff7abc29610cf293958c7",
    "val": "0ae02f7ce2ad963b06b9103af7821fe7fea17eabd1d416b44a558dad49c3dcc0",
    "test": "9ed93b6d7526657b07024be8d9fb417fce096bfcab7c13d5049a36636b356f74",
}
SINE_X = "c7a221ce108e55f0c3c125eda8c614af17d7cc9d87d1f27703ed58025144cfd0"
SINE_Y = {
    1: "ca4c4581110894b1370ca53d7343333eec6464009d8b4b159ae4118bc755e95f",
    -1: "1413843f95b3c0b8e4e5281d5ddca0dfcb0eb1a742bd42713bce6114d286978c",
}


# ---------------------------------------------------------------- raw words
def test_words_are_splitmix64() -> None:
    """The published outputs of SplitMix64 for the seed 1234567: another generator would draw other tasks."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    published.append(16408922859458223821)
    words = random_bits(np.array([1234567], dtype=np.uint64), np.arange(5, dtype=np.uint64))
    assert words.tolist() == published


def test_keys_are_recorded() -> None:
    """A change of how seed, split and task number become a stream would change every task."""
    found = {split: task_keys(42, split, np.array([0, 17])).tolist() for split in SPLITS}
    assert found == KEYS


@quick
@given(seeds, st.lists(numbers, min_size=2, max_size=6, unique=True))
def test_streams_differ_by_seed_split_and_task(seed: int, tasks: list[int]) -> None:
    """No two of (seed, split, task) may share a stream: validation on training tasks would flatter."""
    keys = [task_keys(s, split, np.array(tasks)).tolist() for s in (seed, seed + 1) for split in SPLITS]
    flat = [key for several in keys for key in several]
    assert len(set(flat)) == len(flat) == 6 * len(tasks)


@quick
@given(st.integers(0, 2**64 - 1), st.floats(-10, 10), st.floats(0.1, 10))
def test_uniform_stays_inside(word: int, low: float, width: float) -> None:
    """[low, high], and exactly [0, 1) in 53 bits for the unit interval."""
    value = uniform(np.array([word], dtype=np.uint64), low, low + width)[0]
    assert low <= value <= low + width
    assert uniform(np.array([word], dtype=np.uint64), 0, 1)[0] == (word >> 11) / 2**53 < 1


# ---------------------------------------------------------------- image tasks
@pytest.mark.parametrize("split", SPLITS)
def test_image_draws_are_recorded(split: str) -> None:
    """The same tasks for ever, on every machine and library version."""
    assert digest(draw(np.arange(50), seed=1337, split=split)) == IMAGES[split]


@pytest.mark.usefixtures("float64")
def test_sine_draws_are_recorded() -> None:
    """Amplitude, phase and inputs of both signs, to a millionth."""
    for sign, recorded in SINE_Y.items():
        drawn = SineSource(seed=1337, sign=sign).draw("test", np.arange(20), 5, 10)
        assert (digest(micro(drawn["x"])), digest(micro(drawn["y"]))) == (SINE_X, recorded)


def test_image_draw_in_plain_integers() -> None:
    """The draw once more without numpy's unsigned arithmetic and sorting: classes, then each class's images."""

    def bits(key: int, counter: int) -> int:
        z = (key + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    rows = draw(np.arange(20), seed=9, split="val")
    for number, found in enumerate(rows.tolist()):
        key = bits(bits(9, 1), number)
        words = [bits(bits(key, 0), c) for c in range(len(COUNTS))]
        classes = sorted(range(len(COUNTS)), key=words.__getitem__)
        for way, images in enumerate(found):
            words = [bits(bits(key, way + 1), position) for position in range(COUNTS[classes[way]])]
            order = sorted(range(len(words)), key=words.__getitem__)
            assert images == [STARTS[classes[way]] + position for position in order[:6]]


@quick
@given(seeds, splits, st.lists(numbers, min_size=1, max_size=6, unique=True), st.data())
def test_task_does_not_depend_on_its_company(
    seed: int, split: str, tasks: list[int], data: st.DataObject
) -> None:
    """Whatever the meta-batch: task 17 is task 17."""
    together = draw(tasks, seed, split)
    which = data.draw(st.integers(0, len(tasks) - 1))
    assert (draw([tasks[which]], seed, split)[0] == together[which]).all()
    order = data.draw(st.permutations(range(len(tasks))))
    assert (draw([tasks[i] for i in order], seed, split) == together[order]).all()


@quick
@given(seeds, splits, st.lists(numbers, min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 6))
def test_draws_are_without_replacement_and_inside_their_class(
    seed: int, split: str, tasks: list[int], ways: int, examples: int
) -> None:
    """Unequal classes: distinct classes, distinct images, and every row one of its class, the smallest too."""
    rows = draw(tasks, seed, split, ways, examples)
    assert rows.shape == (len(tasks), ways, examples)
    classes = np.searchsorted(STARTS, rows, side="right") - 1
    assert (classes == classes[..., :1]).all()
    assert (rows >= STARTS[classes]).all()
    assert (rows < (STARTS + COUNTS)[classes]).all()
    for task in range(len(tasks)):
        assert len(set(classes[task, :, 0])) == ways
        assert len(set(rows[task].ravel())) == ways * examples


def test_whole_of_the_smallest_class_can_be_drawn() -> None:
    """All 6 images of the class of 6, once each, in every task that has it."""
    rows = draw(np.arange(30), ways=len(COUNTS), examples=6)
    smallest = STARTS[COUNTS.argmin()]
    inside = (rows[..., 0] >= smallest) & (rows[..., 0] < smallest + 6)
    assert inside.sum() == 30
    assert (np.sort(rows[inside], axis=1) == smallest + np.arange(6)).all()


@quick
@given(seeds, splits, numbers, st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
def test_draws_nest(seed: int, split: str, task: int, few: int, many: int, some: int, more: int) -> None:
    """The 1-shot support set is part of the 5-shot one, and the classes of a 5-way task part of the 20-way one."""
    few, many, some, more = *sorted((few, many)), *sorted((some, more))
    large = draw([task], seed, split, ways=more, examples=many)
    assert (draw([task], seed, split, ways=some, examples=few) == large[:, :some, :few]).all()


def test_seeds_and_splits_draw_other_tasks() -> None:
    """Three runs on one set of tasks, or validation on the training draw, would not be three runs."""
    all_draws = [draw(np.arange(40), seed, split) for seed in (0, 42, 1337) for split in SPLITS]
    for i, one in enumerate(all_draws):
        assert len({task.tobytes() for task in one}) == 40
        for other in all_draws[:i]:
            assert (one == other).mean() < 0.05


def test_draws_are_uniform() -> None:
    """Chi-square of classes at each label, images at each place, and pairs of them; the seed is fixed."""
    rows = draw(np.arange(6000), seed=3, ways=3, examples=4)
    classes = np.searchsorted(STARTS, rows[..., 0], side="right") - 1
    for way in range(3):
        assert stats.chisquare(np.bincount(classes[:, way], minlength=len(COUNTS))).pvalue > 1e-3
    pairs = classes[:, 0] * len(COUNTS) + classes[:, 1]
    seen = np.bincount(pairs, minlength=len(COUNTS) ** 2).reshape(len(COUNTS), -1)
    assert stats.chisquare(seen[~np.eye(len(COUNTS), dtype=bool)]).pvalue > 1e-3
    for number, count in enumerate(COUNTS):
        here = rows[classes == number] - STARTS[number]
        for place in range(4):
            assert stats.chisquare(np.bincount(here[:, place], minlength=count)).pvalue > 1e-5


# ---------------------------------------------------------------- sine tasks
@pytest.mark.usefixtures("float64")
def test_sine_is_what_it_says() -> None:
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


@quick
@given(seeds, splits, st.lists(numbers, min_size=1, max_size=5), st.integers(1, 10), st.integers(1, 10))
def test_sine_tasks_nest_and_stand_alone(
    seed: int, split: str, tasks: list[int], few: int, more: int
) -> None:
    """A wave depends on its number alone; more shots only add points."""
    source = SineSource(seed, 1)
    wave = source.draw(split, np.array(tasks[-1:]), few, 3)
    all_waves = source.draw(split, np.array(tasks), few, 3 + more)
    for key in ("x", "y"):
        assert torch.equal(wave[key][0], all_waves[key][-1, : few + 3])
    assert all_waves["tasks"].tolist() == tasks


def test_sine_episode_divides_at_the_shots() -> None:
    """The first `shots` points are the support set, the rest the queries, one trailing axis each."""
    source = SineSource(0, 1)
    drawn = source.draw("val", np.arange(4, 7), 5, 8)
    episode = source.episode(drawn, 5)
    assert [tuple(part.shape) for part in episode] == [(3, 5, 1), (3, 5, 1), (3, 8, 1), (3, 8, 1), (3,)]
    x, y = (
        torch.cat([episode.support_x, episode.query_x], 1),
        torch.cat([episode.support_y, episode.query_y], 1),
    )
    assert torch.equal(x[..., 0], drawn["x"].float())
    assert torch.equal(y[..., 0], drawn["y"].float())
    assert episode.tasks.tolist() == [4, 5, 6]


# ---------------------------------------------------------------- streams
def stream(batch: int, total: int, split: str = "train") -> TaskStream:
    made = TaskStream(SineSource(0, 1), split, 2, 3, batch, total)
    made.at_once = 6
    return made


@quick
@given(st.integers(1, 7), st.integers(1, 30))
def test_batch_s_holds_tasks_from_s_times_j(batch: int, total: int) -> None:
    """Every task of the split once, in order, J a batch and the rest in the last."""
    tasks = [episode.tasks.tolist() for episode in stream(batch, total)]
    assert len(tasks) == len(stream(batch, total))
    assert [number for several in tasks for number in several] == list(range(total))
    assert all(
        numbers == list(range(s * batch, min((s + 1) * batch, total))) for s, numbers in enumerate(tasks)
    )


@quick
@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_resumed_stream_goes_on_with_the_next_batch(batch: int, updates: int, data: st.DataObject) -> None:
    """A run stopped after any update of any epoch sees the same tasks as one that was never stopped."""
    first = stream(batch, batch * updates)
    whole = [*first, *first, *first]
    assert torch.cat([episode.tasks for episode in whole]).tolist() == list(range(3 * batch * updates))
    seen = data.draw(st.integers(0, 2 * updates))
    left = stream(batch, batch * updates)
    walk = (episode for _ in range(3) for episode in left)
    for _ in range(seen):
        next(walk)
    state = left.state_dict()
    assert state == {"next": seen}
    resumed = stream(batch, batch * updates)
    resumed.load_state_dict(state)
    after = [episode for _ in range(3) for episode in resumed][: 3 * updates - seen]
    for found, expected in zip(after, whole[seen:], strict=True):
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("split", ["val", "test"])
def test_only_training_has_new_tasks_in_each_epoch(split: str) -> None:
    held_out, training = stream(2, 5, split), stream(2, 5)
    for _ in range(2):
        assert torch.cat([episode.tasks for episode in held_out]).tolist() == list(range(5))
    next(iter(training))  # a look at a task changes nothing
    assert torch.cat([episode.tasks for episode in training]).tolist() == list(range(5))
    assert [episode.tasks.tolist() for episode in training] == [[5, 6], [7, 8], [9]]


def test_data_module_has_a_stream_a_split() -> None:
    """Meta-batches and queries of training must not leak into validation and test."""
    queries = {"train_queries": 4, "val_queries": 5, "test_queries": 6}
    sizes = {
        "meta_batch_size": 2,
        "max_steps": 7,
        "num_val_tasks": 10,
        "num_test_tasks": 9,
        "eval_batch_size": 4,
    }
    module = EpisodicDataModule(SineSource(0, 1), shots=3, train_shots=2, **queries, **sizes)
    loaders = {
        "train": module.train_dataloader(),
        "val": module.val_dataloader(),
        "test": module.test_dataloader(),
    }
    told = {split: (s.split, s.shots, s.queries, s.batch, s.total, len(s)) for split, s in loaders.items()}
    assert told == {
        "train": ("train", 2, 4, 2, 14, 7),
        "val": ("val", 3, 5, 4, 10, 3),
        "test": ("test", 3, 6, 4, 9, 3),
    }
    episode = next(iter(loaders["val"]))
    x = SineSource(0, 1).draw("val", np.arange(4), 3, 5)["x"].float()
    assert torch.equal(torch.cat([episode.support_x, episode.query_x], 1)[..., 0], x)
    assert (episode.support_x.shape[1], episode.query_x.shape[1]) == (3, 5)


# ---------------------------------------------------------------- image episodes
def image_source(ways: int = 3, seed: int = 0) -> ImageSource:
    """Ten classes of nine one-pixel images a split; a pixel's value says its class."""
    classes = Classes(tuple(map(str, range(10))), np.arange(0, 90, 9), np.full(10, 9))
    images = np.repeat(np.arange(10), 9).astype(np.uint8)[:, None, None, None]
    return ImageSource(seed, Table(images, dict.fromkeys(SPLITS, classes), ""), ways)


def test_training_tasks_may_have_more_ways() -> None:
    """Drawn as any task of so many classes; validation, test and the first classes of a task stay as they are."""
    plain = image_source()
    source = ImageSource(0, plain.table, 3, train_ways=7)
    classes, tasks = plain.table.splits["train"], np.arange(4)
    for split, ways in (("train", 7), ("val", 3), ("test", 3)):
        drawn = source.draw(split, tasks, 2, 4)
        wanted = draw_images(0, split, tasks, classes.starts, classes.counts, ways, 6)
        assert np.array_equal(drawn["index"], wanted)
        assert source.episode(drawn, 2).query_y.unique().tolist() == list(range(ways))
        assert [len(names) for names in source.class_names(split, tasks)] == [ways] * 4
    assert torch.equal(
        source.draw("train", tasks, 2, 4)["index"][:, :3], plain.draw("train", tasks, 2, 4)["index"]
    )
    assert (source.task.outputs, source.task.train_outputs) == (3, 7)
    assert plain.task.train_outputs is None
    with pytest.raises(
        UserError, match=r"^data.train_ways=11 is more than the 10 train classes: ask for fewer ways"
    ):
        ImageSource(0, plain.table, 3, train_ways=11).check("train", 1, 1)
    with pytest.raises(
        UserError, match=r"^data.ways=11 is more than the 10 train classes: ask for fewer ways"
    ):
        ImageSource(0, plain.table, 11).check("train", 1, 1)


def image_episode(source: ImageSource, tasks: list[int], shots: int, queries: int = 2) -> Episode:
    return source.episode(source.draw("train", np.array(tasks), shots, queries), shots)


@pytest.mark.parametrize("split", SPLITS)
def test_orders_are_recorded(split: str) -> None:
    assert digest(draw_order(1337, split, np.arange(50), 5)) == ORDERS[split]


@quick
@given(seeds, st.lists(numbers, min_size=1, max_size=4), st.integers(1, 6), st.integers(2, 3))
def test_a_label_is_a_class_in_support_and_queries(
    seed: int, tasks: list[int], shots: int, ways: int
) -> None:
    """Whatever the order in which they are shown."""
    batch = image_episode(image_source(ways, seed), tasks, shots)
    for b in range(len(tasks)):
        support = {
            (int(y), round(255 * x.item()))
            for x, y in zip(batch.support_x[b], batch.support_y[b], strict=True)
        }
        queries = {
            (int(y), round(255 * x.item())) for x, y in zip(batch.query_x[b], batch.query_y[b], strict=True)
        }
        assert support == queries
        assert len(support) == ways
        assert batch.support_y[b].bincount().tolist() == [shots] * ways
        assert batch.query_y[b].tolist() == sorted(batch.query_y[b].tolist())


def test_a_position_does_not_give_its_label_away() -> None:
    """Every order of the labels comes up as often as any other."""
    first = image_episode(image_source(), list(range(1200)), 1).support_y
    _, counts = np.unique(first.numpy(), axis=0, return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


@quick
@given(seeds, numbers, st.integers(1, 3), st.integers(1, 3))
def test_support_sets_nest_whatever_their_order(seed: int, task: int, few: int, more: int) -> None:
    source = image_source(seed=seed)
    small, large = (image_episode(source, [task], shots) for shots in (few, few + more))
    order = [batch.support_y[0].unique_consecutive().tolist() for batch in (small, large)]
    assert order[0] == order[1]


@pytest.mark.parametrize("name", LEARNERS)
def test_only_sequences_notice_the_order(name: str) -> None:
    source = ImageSource(
        0, Table(np.random.default_rng(0).integers(0, 256, (90, 3, 3, 1), dtype=np.uint8), {}, ""), 3
    )
    source.table.splits.update(image_source().table.splits)
    drawn = source.draw("train", np.arange(4), 2, 4)
    by_label = drawn | {"order": torch.arange(3).expand(4, -1)}
    assert not torch.equal(drawn["order"], by_label["order"])
    learner = make_named(name, "fc")
    shown, sorted_by_label = (
        learner.predict(Episode(*(x.double() if x.is_floating_point() else x for x in source.episode(d, 2))))
        for d in (drawn, by_label)
    )
    same = torch.allclose(shown, sorted_by_label, rtol=1e-9, atol=1e-10)
    assert same == (name not in ("lstm-sequence", "lstm-offset"))


# ---------------------------------------------------------------- classes with few images
def long_tail(ways: int = 3) -> ImageSource:
    """Seven classes of 9, 1, 9, 4, 9, 9 and 2 one-pixel images a split; a pixel's value says its class."""
    counts = np.array([9, 1, 9, 4, 9, 9, 2])
    classes = Classes(tuple("abcdefg"), np.cumsum(counts) - counts, counts)
    images = np.repeat(np.arange(7), counts).astype(np.uint8)[:, None, None, None]
    return ImageSource(0, Table(images, dict.fromkeys(SPLITS, classes), ""), ways)


def test_classes_with_too_few_images_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    source, tasks = long_tail(), np.arange(200)
    module = EpisodicDataModule(
        source, 1, 4, 10, train_queries=4, val_queries=3, test_queries=15, num_val_tasks=200
    )
    module.setup("validate")
    module.setup("validate")  # Lightning does it once more
    said = "2 of 7 val classes have fewer than 4 images (shots=1 + data.val_queries=3) and are left out: b (1), g (2)"
    assert capsys.readouterr().err.splitlines() == [said]
    names = module.class_names("val", range(200))
    assert {name for task in names for name in task} == set("acdef")
    drawn = module.episode("val", range(200))
    assert [
        ["abcdefg"[round(255 * x)] for x in task[::3].tolist()] for task in drawn.query_x.flatten(1)
    ] == names
    fewer = module.episode("val", range(200), queries=1)  # the same tasks, and the same classes
    assert torch.equal(fewer.query_x, drawn.query_x[:, ::3])
    others = EpisodicDataModule(source, 2, 4, 10, val_queries=7)
    others.setup("validate")
    assert {name for task in others.class_names("val", range(200)) for name in task} == set("acef")
    assert module.class_names("val", range(200)) == names
    assert dict(source.classes()["val"])["b"] == 1
    with pytest.raises(
        UserError, match=r"data.ways=3 is more than the 0 test classes with 16 images .*=15\): 7 of 7 have"
    ):
        module.setup("test")
    full = long_tail()
    full.check("val", 1, 0)
    assert torch.equal(full.draw("val", tasks, 1, 0)["index"], long_tail().draw("val", tasks, 1, 0)["index"])
