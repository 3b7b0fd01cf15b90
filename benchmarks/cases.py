"""A case is a learner on a data set, `sine/oplstm`, with every option from the project's own configurations.

It needs no files: omniglot and mini are random images in the shape of theirs.

Its steps are Lightning's without Lightning: draw and gather the tasks, forward, loss, backward, clamp, Adam.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from fewshot.memory import keep_freed_memory
from omegaconf import DictConfig

from fewshot.config.compose import CONF, composed
from fewshot.data.datamodule import EpisodicDataModule, Source
from fewshot.data.image_source import ImageSource
from fewshot.data.table import Classes, Table
from fewshot.episodes import SPLITS, Episode
from fewshot.methods.base import MetaLearner
from fewshot.training.build import make_datamodule, make_learner, make_source

Step = Callable[[], object]

SHOTS = {"sine": 5, "omniglot": 1, "mini": 1}
CLASSES = {"omniglot": (1028, 172, 423), "mini": (64, 16, 20)}  # of the splits; with 20 random images each
SLOW = ("mini",)  # left out unless asked for


@dataclass
class Case:
    """What is timed: `learner` trains, `tester` has the same weights and is in evaluation mode."""

    name: str
    cfg: DictConfig
    datamodule: EpisodicDataModule
    learner: MetaLearner
    tester: MetaLearner

    def batches(self, split: str) -> Iterator[Episode]:
        """Batches of a split's tasks, for ever."""
        while True:
            for batch in self.datamodule.streams[split]:
                yield self.datamodule.on_after_batch_transfer(
                    batch, 0
                )  # where commits to compare with gather

    def draw(self) -> Step:
        """Tasks drawn and gathered and nothing else."""
        batches = self.batches("train")
        return lambda: next(batches)

    def train(self) -> Step:
        learner, batches, optimizer = self.learner, self.batches("train"), self.learner.configure_optimizers()

        def step() -> None:
            outputs: Any = learner.training_step(next(batches), 0)
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs  # of commits to compare with
            optimizer.zero_grad()
            loss.backward()
            learner.on_before_optimizer_step(optimizer)
            optimizer.step()

        return step

    def test(self) -> Step:
        """A batch of test tasks, predicted and scored."""
        batches = self.batches("test")

        def step() -> None:
            with torch.no_grad():
                self.tester.validation_step(next(batches), 0)

        return step


def names() -> list[str]:
    """Every learner on every data set for which there are settings."""
    pairs = sorted(path.stem.rsplit("-", 1) for path in (CONF / "settings").glob("*.yaml"))
    return [f"{data}/{method}" for data in SHOTS for method, family in pairs if family == data]


def build(name: str, device: str = "cpu", settings: Sequence[str] = ()) -> Case:
    """The case of this name; `settings` as `train.py` takes them, `method.passes=3`, have the last word."""
    data, method = name.split("/")
    told = {"data": data, "method": method, "shots": str(SHOTS[data])} | dict(
        s.split("=", 1) for s in settings
    )
    cfg = composed([f"{key}={value}" for key, value in told.items()])
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # as in a run
    source = make_source(cfg) if data == "sine" else random_images(cfg)
    datamodule = make_datamodule(cfg, source)
    for stream in datamodule.streams.values():
        stream.device = torch.device(device)
    learner, tester = (make_seeded(cfg, source).to(device) for _ in range(2))
    return Case(name, cfg, datamodule, learner, tester.eval())


def make_seeded(cfg: DictConfig, source: Source) -> MetaLearner:
    L.seed_everything(cfg.seed, verbose=False)
    learner = make_learner(cfg, source.task)
    learner.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer to log to
    return learner


def random_images(cfg: DictConfig) -> ImageSource:
    """A table of the data set's shape, with its classes; mini has 600 images a class, of which 20 are enough here."""
    of_splits, images = CLASSES[cfg.data.name], 20
    starts = np.arange(sum(of_splits)) * images
    splits = {}
    for split, own in zip(SPLITS, np.split(starts, np.cumsum(of_splits)[:-1]), strict=True):
        splits[split] = Classes(tuple(map(str, own)), own, np.full(len(own), images))
    shape = (sum(of_splits) * images, cfg.data.size, cfg.data.size, cfg.data.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return ImageSource(cfg.seed, Table(pixels, splits, ""), cfg.data.ways, cfg.data.train_ways)
