"""From a composed configuration to the things it names: data, learner and trainer."""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from fewshot.data.datamodule import EpisodicDataModule, Source
from fewshot.data.image_source import ImageSource
from fewshot.data.sine import SineSource
from fewshot.episodes import SPLITS
from fewshot.errors import UserError
from fewshot.methods import learner_class
from fewshot.methods.base import MetaLearner, Task

OWN_THREADS = torch.get_num_threads()
NOT_FOR_THE_LEARNER = ("name", "meta_batch")


def use_threads(number: int) -> None:
    """Torch's threads on the CPU; 0: its own choice, whatever an earlier cell of a multirun had."""
    torch.set_num_threads(number or OWN_THREADS)


def make_source(cfg: DictConfig) -> Source:
    """Sine waves, or the prepared table of an image set (prepared now if it is not there)."""
    data = cfg.data
    if data.name == "sine":
        return SineSource(cfg.seed, data.sign)
    from fewshot.data.images import open_or_prepare  # sine waves need none of it

    path = Path(data.path) if "path" in data else None
    raw, prepared = Path(cfg.paths.raw), Path(cfg.paths.prepared)
    return ImageSource(cfg.seed, open_or_prepare(data.name, raw, prepared, data.size, data.channels, path), data.ways)


def announced(name: str, source: Source) -> Source:
    """The source, after what a user should know of it has been printed."""
    if source.note:
        print(f"data={name}: {source.note}", file=sys.stderr)
    return source


def make_datamodule(cfg: DictConfig, source: Source, splits: Sequence[str] = SPLITS) -> EpisodicDataModule:
    """The run's data module; UserError where one of `splits` has too few classes or a class too few images."""
    data, trainer = cfg.data, cfg.trainer
    shots = {"train": data.train_shots, "val": cfg.shots, "test": cfg.shots}
    queries = {"train": data.train_queries, "val": data.val_queries, "test": data.test_queries}
    if isinstance(source, ImageSource):
        for split in splits:
            check_size(source, split, shots[split], queries[split])
    return EpisodicDataModule(
        source,
        shots,
        queries,
        meta_batch=cfg.method.meta_batch,
        updates=trainer.updates,
        val_tasks=trainer.val_tasks,
        test_tasks=trainer.test_tasks,
        eval_batch=trainer.eval_batch,
    )


def check_size(source: ImageSource, split: str, shots: int, queries: int) -> None:
    classes = source.table.splits[split]
    if source.ways > len(classes.names):
        raise UserError(f"data.ways={source.ways} is more than the {len(classes.names)} {split} classes")
    smallest = int(classes.counts.argmin())
    count = int(classes.counts[smallest])
    if shots + queries > count:
        asked = f"{'data.train_shots' if split == 'train' else 'shots'}={shots} + data.{split}_queries={queries}"
        raise UserError(
            f"{asked} is more than the {count} images of the {split} class {classes.names[smallest]}: "
            f"ask for at most {count} in all"
        )


def make_learner(cfg: DictConfig, source: Source) -> MetaLearner:
    """The learner that `cfg.method` and `cfg.backbone` name; it hears of its task's shape and nothing else."""
    options: dict[str, Any] = OmegaConf.to_container(cfg.method, resolve=True)  # type: ignore[assignment]
    backbone: dict[str, Any] = OmegaConf.to_container(cfg.backbone, resolve=True)  # type: ignore[assignment]
    del backbone["name"]
    task = Task(source.input_shape, source.outputs, source.regression)
    kwargs = {key: value for key, value in options.items() if key not in NOT_FOR_THE_LEARNER}
    learner = learner_class(cfg.method.name)
    try:
        inspect.signature(learner).bind(task=task, backbone=backbone, **kwargs)
    except TypeError as error:
        raise UserError(
            f"the settings of method={cfg.method.name} are not those of {learner.__name__}: {error}"
        ) from error
    return learner(task=task, backbone=backbone, **kwargs)  # type: ignore[call-arg]


def make_lightning(method: str, **settings: Any) -> L.Trainer:
    """Lightning's trainer on one device (a second one would see the same tasks); UserError for what it refuses.

    "32-true" means 32 bits on every device: torch's default cuts those of convolutions to 19 on a GPU (TF32).
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        trainer = L.Trainer(
            devices=1,
            enable_model_summary=False,
            inference_mode=False,  # learners differentiate at test time
            use_distributed_sampler=False,
            **settings,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"this machine has no such accelerator, or not in this precision: {error}") from error
    if method == "lstm" and trainer.precision != "32-true" and trainer.strategy.root_device.type == "cpu":
        raise UserError(f"precision {trainer.precision}: torch's LSTM has none but 32-true on every CPU, choose that")
    return trainer
