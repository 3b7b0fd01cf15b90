"""What a run logs while it trains, in metrics.csv and TensorBoard, and the figure of it."""

import pytest

from fewshot.config.run_id import run_folder
from fewshot.methods.base import MetaLearner
from fewshot.plots.curves import learning_curve
from fewshot.training.callbacks import MetricsCsv
from fewshot.training.run import run as train
from tests.helpers import config, images_of, kill_at, rows
from tests.made_files import fill_folder, picture

FEW = ["trainer.max_steps=20", "trainer.val_check_interval=10", "trainer.log_every_n_steps=5"]

pytestmark = pytest.mark.usefixtures("undrawn")


def images(tmp_path, *overrides):
    """A small run on own images, two classes a task that are hard to tell apart."""
    settings = images_of(tmp_path)
    files = {f"class{c}/{i}.png": picture(c + 12 * i) for c in range(12) for i in range(20)}
    fill_folder(tmp_path / "images", files)
    return config(tmp_path, "method=protonet", *settings, *overrides)


def curve(folder, metric):
    return {int(r["step"]): float(r["value"]) for r in rows(folder / "metrics.csv") if r["metric"] == metric}


def lines(figure):
    return {axes.get_title(loc="left"): [line.get_label() for line in axes.lines] for axes in figure.axes}


@pytest.mark.parametrize("method", ["protonet", "warpmaml"])
def test_training_accuracy_of_logged_steps(method, tmp_path, monkeypatch):
    """It is that of the predictions made in training, and is computed for no other step."""
    scored = []
    score = MetaLearner.scores

    def counted(self, predictions, query_y):
        if self.training:
            scored.append(100 * (predictions.argmax(-1) == query_y).double().mean().item())
        return score(self, predictions, query_y)

    monkeypatch.setattr(MetaLearner, "scores", counted)
    cfg = images(tmp_path, f"method={method}", *FEW)
    train(cfg)
    folder = run_folder(cfg)
    logged = curve(folder, "train/accuracy")
    assert logged == pytest.approx(dict(zip((5, 10, 15, 20), scored, strict=True)))
    assert len(set(logged.values())) > 1
    assert curve(folder, "train/loss").keys() == logged.keys()
    assert [*curve(folder, "val/loss")] == [*curve(folder, "val/accuracy")] == [0, 10, 20]
    both = {score: [f"train/{score}", f"val/{score}"] for score in ("loss", "accuracy")}
    assert lines(learning_curve(folder / "metrics.csv", "")) == both


def test_on_sine_the_loss_is_the_score(tmp_path):
    cfg = config(tmp_path, *FEW)
    train(cfg)
    folder = run_folder(cfg)
    assert curve(folder, "val/loss") == pytest.approx(curve(folder, "val/mse"), rel=1e-5)
    assert not curve(folder, "train/accuracy")
    assert lines(learning_curve(folder / "metrics.csv", "")) == {"loss": ["train/loss", "val/loss"]}


@pytest.mark.parametrize("torn", ["", "1", "16,4", "16,4,val/loss", "16,4,val/loss,0.", "\0\0"])
def test_a_resumed_run_keeps_the_rows_before_it(torn, tmp_path):
    logger = MetricsCsv(tmp_path / "metrics.csv", 0)
    assert not logger.path.exists()
    for step in range(4):
        logger.log_metrics({"tasks": 4.0 * step, "val/loss": 0.1 * step}, step)
    kept = logger.path.read_bytes().split(b"\r\n")[:4]
    with logger.path.open("a") as file:
        file.write(torn)
    MetricsCsv(logger.path, 2)
    assert logger.path.read_bytes() == b"\r\n".join([*kept, b""])


def test_tensorboard_has_the_curves_of_metrics_csv(tmp_path, monkeypatch):
    """Also of a run that was killed after step 25 was logged and resumes from step 24."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = config(tmp_path, "logger=tensorboard")
    kill_at(27, cfg, monkeypatch)
    train(cfg)
    events = EventAccumulator(str(run_folder(cfg) / "tensorboard"))
    events.Reload()
    for metric in ("train/loss", "val/loss", "val/mse"):
        logged = [(event.step, pytest.approx(event.value)) for event in events.Scalars(metric)]
        assert [*curve(run_folder(cfg), metric).items()] == logged
