"""Pictures of test tasks and what W&B keeps of a result."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.image_source import ImageSource
from fewshot.data.sine import SineSource
from fewshot.episodes import Episode
from fewshot.methods.base import MetaLearner
from fewshot.plots import episodes
from fewshot.training.wandb_log import log_result
from tests.conftest import LSTM, MAML, episode, make

SET = {"support_mode": "set", "pool_cell": True, "query_cell": True}
RESULT = {
    "status": "finished",
    "data": "mini",
    "metric": "accuracy",
    "mean": 60.0,
    "ci95": 1.5,
    "tasks": 600,
    "best_step": 40,
    "best_validation": 61.0,
    "parameters": 1234,
    "train_tasks": 80,
    "tasks_per_second": 9.0,
    "peak_memory_bytes": 10**8,
    "test_queries": 15,
    "method": "oplstm",
    "trained_on": "mini",
    "variant": "released",
    "config_diff": {},
    **dict.fromkeys(("ways", "shots", "val_shots"), 5),
}


class FakeRun:
    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values


def module(source: Any, shots: int = 5, queries: int = 6) -> EpisodicDataModule:
    sizes = dict.fromkeys(("train_queries", "val_queries", "test_queries"), queries)
    return EpisodicDataModule(
        source, shots, 2, 2, **sizes, num_val_tasks=4, num_test_tasks=4, eval_batch_size=4
    )


def waves() -> tuple[MetaLearner, EpisodicDataModule]:
    return make("lstm", "mlp", regression=True, **LSTM, **SET).float(), module(SineSource(0, 1))


def images() -> tuple[MetaLearner, EpisodicDataModule]:
    """A learner of 3 ways on a table of 4 classes of 10 grey 3 x 3 images, mostly black."""
    numbers = np.random.default_rng(0).integers(0, 256, (40, 3, 3, 1), dtype=np.uint8)
    numbers[:, :2] = 0
    split = SimpleNamespace(starts=np.arange(0, 40, 10), counts=np.full(4, 10), names=list("abcd"))
    table: Any = SimpleNamespace(images=numbers, splits={"test": split}, note="")
    source: Any = ImageSource(0, table, 3)
    return make("maml", "fc", **MAML).float(), module(source, shots=2)


def marks(axes: Axes) -> list[tuple[int, int, str, str]]:
    """Row, column, frame's colour and mark of every image of an episode's figure."""
    texts = {(text.get_position()): text.get_text() for text in axes.texts if text.get_bbox_patch()}
    found = []
    for frame in axes.patches:
        x, y = frame.get_x() - 0.05, frame.get_y() - 0.05  # type: ignore[attr-defined]
        near = [text for (tx, ty), text in texts.items() if x < tx < x + 1 and y < ty < y + 1]
        found.append((round(y), int(x), to_hex(frame.get_edgecolor()), "".join(near)))
    return found


@pytest.mark.parametrize("tasks", [(0,), (0, 1, 2), (0, 1, 2, 3)])
def test_wave_figure_has_a_panel_a_task(tasks: tuple[int, ...]) -> None:
    learner, datamodule = waves()
    figure = episodes.wave_figure(learner, datamodule, tasks)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [len(axes.lines) for axes in panels] == [3] * len(tasks)
    drawn = datamodule.source.draw("test", np.array(tasks), 5, 0)
    for number, axes in enumerate(panels):
        assert np.allclose(axes.lines[2].get_xdata(), drawn["x"][number], atol=1e-5)
        error = np.mean((np.array(axes.lines[0].get_ydata()) - np.array(axes.lines[1].get_ydata())) ** 2)
        assert f"task {tasks[number]}: mse {error:.4f}" in axes.get_title(loc="left")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("sign", [-1, 1])
def test_true_wave_is_the_task_s(sign: int) -> None:
    drawn = SineSource(0, sign).draw("test", np.arange(20), 5, 50)
    x, y = drawn["x"][..., None], drawn["y"][..., None]
    assert torch.allclose(episodes.waves(x[:, :20], y[:, :20], x), y, atol=1e-9)


def test_marks_agree_with_predictions() -> None:
    learner = make("maml", "fc", **MAML)
    batch = episode(learner, tasks=2, shots=2, queries=4)
    predictions = torch.randn(2, 12, 3)
    for number in range(2):
        (axes,) = episodes.episode_figure(batch, predictions, number).axes
        assert len(axes.images) == len(axes.patches) == 3 * (2 + 4)
        chosen, labels = predictions[number].argmax(1).tolist(), batch.query_y[number].tolist()
        for label in range(3):
            row = sorted(mark for mark in marks(axes) if mark[0] == label)
            assert [(colour, mark) for _, _, colour, mark in row[:2]] == [(episodes.GREY, "")] * 2
            expected = [
                (episodes.BLUE, "") if c == label else (episodes.ORANGE, str(c))
                for c, y in zip(chosen, labels, strict=True)
                if y == label
            ]
            assert [(colour, mark) for _, _, colour, mark in row[2:]] == expected
        right = 100 * np.mean(np.equal(chosen, labels))
        assert any(f"{right:.1f}% of 12 queries right" in text.get_text() for text in axes.texts)


def test_titles_and_names_of_classes() -> None:
    """Each row says which class it is; what matplotlib's font lacks is a box, and a dollar starts no formula."""
    learner, datamodule = images()
    source: Any = datamodule.source
    source.table.splits["test"].names[:] = [
        "plain",
        "a very long name of a class in some data set",
        "$x_1$",
        "\U00016f00b",
    ]
    told = {"plain": "plain", "$x_1$": "$x 1$", "\U00016f00b": "□b"}
    tasks = (0, 1, 2, 3)
    for (task, _, figure), names in zip(
        episodes.test_figures(learner, datamodule, tasks, "maml on mini"),
        datamodule.class_names("test", tasks),
        strict=True,
    ):
        [axes] = figure.axes
        texts = [text.get_text() for text in axes.texts]
        assert "maml on mini" in texts
        assert [n for n in texts if n in told.values() or n.startswith("a very")] == [
            told.get(n, "a very long name of\na class in some\ndata set") for n in names
        ]
        drawn = source.draw("test", np.array([task]), 2, 1)["index"][0, :, 0] // 10  # ten images a class
        assert names == [source.table.splits["test"].names[number] for number in drawn]
        episodes.as_image(figure)
    learner, datamodule = waves()
    assert datamodule.class_names("test", tasks) == [[]] * 4
    assert episodes.wave_figure(learner, datamodule, (0,), "lstm on sine").get_suptitle() == "lstm on sine"


def test_many_images_are_cut_to_what_fits() -> None:
    batch = episode(make("maml", "fc", **MAML), tasks=1, shots=11, queries=10)
    (axes,) = episodes.episode_figure(batch, torch.randn(1, 30, 3), 0).axes
    assert len(axes.images) == 3 * 2 * episodes.MOST
    assert any(
        "of 30 queries" in text.get_text() and "8 a class shown" in text.get_text() for text in axes.texts
    )


@pytest.mark.parametrize(("channels", "level", "shape", "colours"), [
    (1, 0.0, (4, 4), "gray_r"),  # ink drawn bright
    (1, 0.8, (4, 4), "gray"),
    (3, 0.8, (4, 4, 3), None),
])  # fmt: skip
def test_grey_and_rgb(channels: int, level: float, shape: tuple[int, ...], colours: str | None) -> None:
    x, y = torch.full((1, 2, channels, 4, 4), level), torch.tensor([[0, 1]])
    (axes,) = episodes.episode_figure(Episode(x, y, x, y, torch.tensor([7])), torch.eye(2)[None], 0).axes
    assert axes.images[0].get_array().shape == shape  # type: ignore[union-attr]
    assert colours is None or axes.images[0].get_cmap().name == colours


@pytest.mark.parametrize("make_case", [waves, images])
@pytest.mark.parametrize("training", [True, False])
def test_figures_leave_the_learner_as_it_was(make_case: Any, training: bool) -> None:
    learner, datamodule = make_case()
    learner.train(training)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    made = episodes.test_figures(learner, datamodule, (3, 1))
    assert learner.training == training
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert [task for task, _, _ in made] == [3, 1]
    expected = {}
    learner.eval()
    for whole in datamodule.test_dataloader():
        with torch.no_grad():
            scores = learner.scores(learner.predict(whole), whole.query_y)
        expected |= dict(zip(whole.tasks.tolist(), scores.tolist(), strict=True))
    assert [score for _, score, _ in made] == pytest.approx([expected[3], expected[1]], rel=1e-4)


def test_training_is_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, datamodule = waves()
    learner.train()

    def broken(*_: Any) -> None:
        assert not learner.training
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError

    monkeypatch.setattr(learner, "forward", broken)
    with pytest.raises(ZeroDivisionError):
        episodes.test_figures(learner, datamodule)
    assert learner.training


def test_learners_of_other_precision() -> None:
    learner, datamodule = waves()
    assert len(episodes.test_figures(learner.double(), datamodule, (0,))) == 1


def test_picture_is_written_whole(tmp_path: Path) -> None:
    learner, datamodule = images()
    ((_, _, figure),) = episodes.test_figures(learner, datamodule, (0,))
    episodes.save_figure(figure, tmp_path / "a.picture")
    with Image.open(tmp_path / "a.picture.png") as image:
        image.load()
        assert min(image.size) > 600  # 300 dots an inch
    for name, start in (("a.picture.png", b"\x89PNG"), ("a.picture.pdf", b"%PDF")):
        assert (tmp_path / name).read_bytes().startswith(start)
        assert (tmp_path / name).stat().st_size < 300_000
    assert b"/Type3" not in (tmp_path / "a.picture.pdf").read_bytes()  # fonts that journals refuse
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("where", ["draw", "write", "replace"])
def test_nothing_is_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"earlier")
    figure = Figure(figsize=(1, 1))

    def broken(*_: Any) -> None:
        raise OSError("no space")

    def half(_: Image.Image, file: Any, *__: Any, **___: Any) -> None:
        file.write(b"half")
        raise OSError("no space")

    target: Any = {"draw": figure, "write": Image.Image, "replace": Path}[where]
    name = {"draw": "draw", "write": "save", "replace": "replace"}[where]
    monkeypatch.setattr(target, name, half if where == "write" else broken)
    with pytest.raises(OSError, match="no space"):
        episodes.save_figure(figure, path.with_suffix(""))
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    assert path.read_bytes() == b"earlier"


def test_pyplot_is_not_used() -> None:
    source = Path(episodes.__file__).read_text()
    assert "import matplotlib.pyplot" not in source
    assert "pyplot as" not in source


def test_summary_has_both_ends_of_the_interval() -> None:
    run = FakeRun()
    log_result(run, RESULT, [], publish=False)
    assert run.summary["test/accuracy"] == 60.0
    assert (run.summary["test/ci95_low"], run.summary["test/ci95_high"]) == (58.5, 61.5)
    assert run.summary["test/tasks"] == 600
    assert "tasks" not in run.summary  # the axis of the curves keeps its last value
    kept = ("status", "best_step", "best_validation", "parameters", "tasks_per_second", "peak_memory_bytes")
    assert {key: run.summary[key] for key in kept} == {key: RESULT[key] for key in kept}
    assert not run.logged


def test_result_without_a_test() -> None:
    run = FakeRun()
    log_result(
        run, RESULT | {"status": "diverged", "mean": None, "ci95": None, "tasks": None}, [], publish=False
    )
    assert run.summary["status"] == "diverged"
    assert not [key for key in run.summary if key.startswith("test/")]


@pytest.mark.parametrize("data", ["mini", "cub", "cub50", "folder", "sine", "omniglot", "glyphs"])
@pytest.mark.parametrize("publish", [False, True])
def test_pictures_not_ours_are_withheld(data: str, publish: bool) -> None:
    run = FakeRun()
    log_result(run, RESULT | {"data": data}, [(3, 40.0, Figure(figsize=(1, 1)))], publish)
    assert run.summary["test/accuracy"] == 60.0
    ours = data in ("sine", "omniglot", "glyphs")
    assert set(run.logged) == ({"test/episodes", "test/pictures"} if ours or publish else set())
    if run.logged:
        assert run.logged["test/episodes"].data[0][:2] == [3, 40.0]


def test_offline_run_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    learner, datamodule = images()
    figures = episodes.test_figures(learner, datamodule, (0, 1))
    run = wandb.init(
        project="fewshot", dir=tmp_path, mode="offline", settings=wandb.Settings(silent=True, console="off")
    )
    try:
        log_result(run, RESULT | {"data": "glyphs"}, figures, publish=False)
        assert run.summary["test/ci95_high"] == 61.5
    finally:
        run.finish()
    assert list(tmp_path.rglob("run-*.wandb"))
    # each picture in the table and on its own; equal pictures may share a file
    assert len(list(tmp_path.rglob("*.png"))) >= 2
