"""Figures of test tasks."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.image_source import ImageSource
from fewshot.data.sine import SineSource
from fewshot.data.table import Table
from fewshot.episodes import Episode
from fewshot.plots import episodes
from tests.conftest import LSTM, MAML, episode, make

SET = {"support_mode": "set", "pool_cell": True, "query_cell": True}
NAMES = ["plain", "a very long name of a class in some data set", "$x_1$", "b"]


def module(source, shots=5, queries=6):
    sizes = dict.fromkeys(("train_queries", "val_queries", "test_queries"), queries)
    return EpisodicDataModule(source, shots, 2, 2, **sizes, num_val_tasks=4, num_test_tasks=4)


def waves():
    return make("lstm", "mlp", regression=True, **LSTM, **SET).float(), module(SineSource(0, 1))


def images():
    """A learner of 3 ways on a table of 4 classes of 10 grey 3 x 3 images, mostly black."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 3, 1), dtype=np.uint8)
    pixels[:, :2] = 0
    split = {name: range(10 * i, 10 * i + 10) for i, name in enumerate(NAMES)}
    table = Table(pixels, {"test": split}, "")
    return make("maml", "fc", **MAML).float(), module(ImageSource(0, table, 3), shots=2)


def test_wave_figure():
    learner, datamodule = waves()
    figure = episodes.wave_figure(learner, datamodule, 2, "a title")
    assert figure.get_suptitle() == "a title"
    [axes] = figure.axes
    (x, wave), (_, predicted), (support_x, _) = (np.array(line.get_data()) for line in axes.lines)
    [x_true], [y_true], _ = datamodule.source.draw("test", np.array([2]), 5, episodes.POINTS)
    assert np.allclose(support_x, x_true[:5])
    assert np.allclose(wave, y_true[5:][x_true[5:].argsort()])
    assert (np.diff(x) >= 0).all()
    assert f"mse {np.mean((wave - predicted) ** 2):.4f}" in axes.get_title(loc="left")


def test_frames_and_marks_agree_with_predictions():
    learner = make("maml", "fc", **MAML)
    batch = episode(learner, tasks=2, shots=2, queries=4)
    predictions = torch.randn(2, 12, 3)
    figure = episodes.episode_figure(batch, predictions, 1)
    [axes] = figure.axes
    chosen, labels = predictions[1].argmax(1), batch.query_y[1]
    frames = [to_hex(frame.get_edgecolor()) for frame in axes.patches]
    expected, wrong = [], []
    for label in range(3):
        of_class = chosen[labels == label].tolist()
        expected += [episodes.BLUE if c == label else episodes.ORANGE for c in of_class]
        wrong += [str(c) for c in of_class if c != label]
    assert frames == expected
    assert [text.get_text() for text in axes.texts] == wrong
    right = 100 * (chosen == labels).double().mean()
    assert f"{right:.1f}% of 12 queries right" in axes.get_title(loc="left")


@pytest.mark.parametrize(("channels", "level"), [(1, 0.8), (3, 0.05)])
def test_each_image_has_its_place(channels, level):
    """Of many images the first eight are shown."""
    x, y = torch.full((1, 22, channels, 8, 8), level), torch.arange(2).repeat(1, 11)
    x[0, 2] = 0.5  # the second image of class 0
    one = Episode(x, y, x, y, torch.tensor([7]))
    [axes] = episodes.episode_figure(one, torch.eye(2).repeat(11, 1)[None], 0).axes
    pixels = np.asarray(axes.images[0].get_array())
    assert pixels.shape == (2 * 10 + 2, (8 + 1 + 8) * 10 + 2, 3)
    assert pixels[5, 5] == pytest.approx([level] * 3)
    assert pixels[5, 5 + 10] == pytest.approx([0.5] * 3)
    assert "100.0% of 22 queries right" in axes.get_title(loc="left")


@pytest.mark.parametrize("make_case", [waves, images])
def test_figures_are_of_the_predictions_of_the_test(make_case):
    """Whatever the learner's mode and precision; its weights stay as they were."""
    learner, datamodule = make_case()
    learner.double()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    made = episodes.task_figures(learner, datamodule, (3, 1))
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    [batch] = datamodule.test_dataloader()
    batch = Episode(*(x.double() if x.is_floating_point() else x for x in batch))
    with torch.no_grad():
        scores = learner.eval().scores(learner.predict(batch), batch.query_y)
    assert [(n, score) for n, score, _ in made] == [(n, pytest.approx(float(scores[n]))) for n in (3, 1)]


def test_figures_are_saved_as_png_and_pdf(tmp_path):
    learner, datamodule = images()
    [(_, _, figure)] = episodes.task_figures(learner, datamodule, [0])
    episodes.save_figure(figure, tmp_path / "a.picture")
    with Image.open(tmp_path / "a.picture.png") as image:
        assert image.size[0] == pytest.approx(episodes.DPI * figure.get_figwidth(), abs=1)
    pdf = (tmp_path / "a.picture.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf  # fonts that journals refuse
    assert len([*tmp_path.iterdir()]) == 2
