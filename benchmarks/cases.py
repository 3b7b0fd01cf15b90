"""A case is a learner on a data set, as `sine/oplstm`, with all options from `conf/`.

No files are needed: omniglot and mini are random images of the same shape.

A step is Lightning's without Lightning: draw and gather the tasks, forward, loss, backward, clipping, Adam.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from omegaconf import DictConfig

from fewshot.config.compose import CONF, composed
from fewshot.data.datamodule import EpisodicDataModule, Source
from fewshot.data.image_source import ImageSource
from fewshot.data.table import Table
from fewshot.episodes import SPLITS, Episode
from fewshot.methods.base import MetaLearner
from fewshot.options import settings_of
from fewshot.training.build import make_datamodule, make_learner, prepare_process
from fewshot.training.update import faster, update_function

Step = Callable[[], object]

SHOTS = {"sine": 5, "omniglot": 1, "mini": 1}
CLASSES = {"omniglot": (1028, 172, 423), "mini": (64, 16, 20)}  # of the splits; with 20 random images each
SLOW = ("mini",)  # only with --all or --cases


@dataclass
class Case:
    """`learner` trains; `tester` has the same weights and is in evaluation mode."""

    name: str
    cfg: DictConfig
    datamodule: EpisodicDataModule
    learner: MetaLearner
    tester: MetaLearner

    def batches(self, split: str) -> Iterator[Episode]:
        """Batches of a split's tasks, endlessly."""
        while True:
            yield from self.datamodule.streams[split]

    def draw(self) -> Step:
        """Draws and gathers the tasks of a batch."""
        batches = self.batches("train")
        return lambda: next(batches)

    def train(self) -> Step:
        learner, batches, optimizer = self.learner, self.batches("train"), self.learner.configure_optimizers()

        def step() -> None:
            loss = learner.training_step(next(batches), 0)["loss"]
            optimizer.zero_grad()
            loss.backward()
            learner.on_before_optimizer_step(optimizer)
            optimizer.step()

        return step

    def train_faster(self) -> Step:
        """The whole update compiled, or captured on a GPU (`trainer.compile`)."""
        kind = "captured" if self.learner.device.type == "cuda" else "compiled"
        whole = update_function(self.learner, self.learner.configure_optimizers())
        update, batches = faster(whole, kind, self.learner.device), self.batches("train")
        return lambda: update(*next(batches))

    def test(self) -> Step:
        """Predicts and scores a batch of test tasks."""
        batches = self.batches("test")

        def step() -> None:
            with torch.no_grad():
                self.tester.validation_step(next(batches), 0)

        return step


def names() -> list[str]:
    """Every learner on every data set with published settings."""
    pairs = sorted(path.stem.rsplit("-", 1) for path in (CONF / "settings").glob("*.yaml"))
    return [f"{data}/{method}" for data in SHOTS for method, family in pairs if family == data]


def build(name: str, device: str = "cpu", settings: Sequence[str] = ()) -> Case:
    """The case of this name; `settings`, as `train.py` takes them (`method.passes=3`), take precedence."""
    data, method = name.split("/")
    overrides = {"data": data, "method": method, "shots": str(SHOTS[data])}
    overrides |= dict(setting.split("=", 1) for setting in settings)
    cfg = composed([f"{key}={value}" for key, value in overrides.items()])
    prepare_process(torch.get_num_threads())
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # as in a run
    source = make_datamodule(cfg).source if data == "sine" else random_images(cfg)
    available = {
        **cfg.data,
        **cfg.trainer,
        "shots": cfg.shots,
        "meta_batch_size": cfg.method.meta_batch_size,
    }
    datamodule = EpisodicDataModule(
        source, **{name: available[name] for name in settings_of(EpisodicDataModule)}
    )
    datamodule.setup("fit")
    datamodule.setup("test")
    for stream in datamodule.streams.values():
        stream.device = torch.device(device)
    learner, tester = (make_seeded(cfg, source).to(device) for _ in range(2))
    return Case(name, cfg, datamodule, learner, tester.eval())


def make_seeded(cfg: DictConfig, source: Source) -> MetaLearner:
    L.seed_everything(cfg.seed, verbose=False)
    learner = make_learner(cfg, source.task)
    learner.log = lambda *_, **__: None  # type: ignore[method-assign]  # no trainer
    return learner


def random_images(cfg: DictConfig) -> ImageSource:
    """A table with the data set's shape and classes, 20 images per class."""
    counts, images = CLASSES[cfg.data.name], 20
    all_starts = np.arange(sum(counts)) * images
    splits = {}
    for split, starts in zip(SPLITS, np.split(all_starts, np.cumsum(counts)[:-1]), strict=True):
        splits[split] = {str(start): range(start, start + images) for start in starts.tolist()}
    shape = (sum(counts) * images, cfg.data.size, cfg.data.size, cfg.data.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return ImageSource(cfg.seed, Table(pixels, splits, ""), cfg.data.ways, cfg.data.train_ways)
