"""What a run logs while it trains, and the picture of it."""

from pathlib import Path
from typing import Any

import pytest
from fewshot.training.run import run as train
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from fewshot.config.run_id import run_folder
from fewshot.episodes import Episode
from fewshot.methods.base import MetaLearner
from fewshot.plots.curves import learning_curve
from fewshot.training import prepare
from tests.made_files import fill_folder, picture
from tests.test_runs import config, rows

FEW = ["trainer.max_steps=20", "trainer.val_check_interval=10", "trainer.log_every_n_steps=5"]


def images(tmp_path: Path, *overrides: str) -> DictConfig:
    """A small run on images of one's own, two classes a task that are hard to tell apart."""
    fill_folder(
        tmp_path / "images", {f"class{c}/{i}.png": picture(c + 12 * i) for c in range(12) for i in range(20)}
    )
    small = [f"data.path={tmp_path / 'images'}", "data.size=8", "data.channels=1", "data.ways=2"]
    queries = ["data.train_queries=3", "data.val_queries=3"]
    return config(
        tmp_path, "data=folder", "method=protonet", "backbone.widths=[4,4]", *small, *queries, *overrides
    )


def curve(folder: Path, metric: str) -> dict[int, float]:
    return {int(r["step"]): float(r["value"]) for r in rows(folder / "metrics.csv") if r["metric"] == metric}


def lines(figure: Figure) -> dict[str, list[Any]]:
    return {axes.get_title(loc="left"): [line.get_label() for line in axes.lines] for axes in figure.axes}


@pytest.mark.parametrize("method", ["protonet", "warpmaml"])
def test_the_accuracy_of_training_is_that_of_logged_steps(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right as the learner trained, and computed for no other step."""
    expected: list[float] = []
    scored: list[Tensor] = []
    make, score = prepare.make_learner, MetaLearner.scores

    def watched(*told: Any) -> MetaLearner:
        learner = make(*told)
        original = learner.training_step

        def step(episode: Episode, batch_idx: int) -> dict[str, Tensor]:
            made = original(episode, batch_idx)
            expected.append(100 * (made["predictions"].argmax(-1) == episode.query_y).double().mean().item())
            return made

        learner.training_step = step  # type: ignore[method-assign]
        return learner

    def counted(self: MetaLearner, *told: Tensor) -> Tensor:
        if self.training and len(told[0]) == 2:  # of the meta-batch; pictures show other tasks
            scored.append(told[0])
        return score(self, *told)

    monkeypatch.setattr(prepare, "make_learner", watched)
    monkeypatch.setattr(MetaLearner, "scores", counted)
    cfg = images(tmp_path, f"method={method}", *FEW)
    train(cfg)
    logged = curve(run_folder(cfg), "train/accuracy")
    assert logged == {step: pytest.approx(expected[step - 1]) for step in (5, 10, 15, 20)}
    assert len(scored) == 4
    assert len(set(logged.values())) > 1
    assert curve(run_folder(cfg), "train/loss").keys() == logged.keys()
    assert (
        curve(run_folder(cfg), "val/loss").keys()
        == curve(run_folder(cfg), "val/accuracy").keys()
        == {0, 10, 20}
    )
    assert lines(learning_curve(run_folder(cfg) / "metrics.csv", "")) == {
        "loss": ["train/loss", "val/loss"],
        "accuracy": ["train/accuracy", "val/accuracy"],
    }


def test_on_sine_the_loss_is_the_score(tmp_path: Path) -> None:
    cfg = config(tmp_path, *FEW)
    train(cfg)
    assert curve(run_folder(cfg), "val/loss") == pytest.approx(curve(run_folder(cfg), "val/mse"), rel=1e-5)
    assert not curve(run_folder(cfg), "train/accuracy")
    assert lines(learning_curve(run_folder(cfg) / "metrics.csv", "")) == {"loss": ["train/loss", "val/loss"]}
