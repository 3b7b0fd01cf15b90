"""From a composed configuration to the things it names: data, learner and trainer."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from fewshot.config.settings import OF_DATA, OF_TRAINER, learner_options
from fewshot.data.datamodule import EpisodicDataModule, Source
from fewshot.data.image_source import ImageSource
from fewshot.data.images import open_or_prepare
from fewshot.data.sine import SineSource
from fewshot.data.table import Table
from fewshot.episodes import Task
from fewshot.errors import UserError
from fewshot.methods import learner_class
from fewshot.methods.base import MetaLearner

OWN_THREADS = torch.get_num_threads()
if not torch.cuda.is_available():  # Lightning lets Adam look for NVIDIA's library anew in every update: .1 ms
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def use_threads(number: int, devices: int = 1) -> None:
    """Torch's threads on the CPU in each of the run's processes; 0: its own choice, whatever an earlier cell had."""
    torch.set_num_threads(number or max(OWN_THREADS // devices, 1))


def make_source(cfg: DictConfig) -> Source:
    """Sine waves, or the prepared table of an image set (prepared now if it is not there)."""
    if cfg.data.name == "sine":
        return SineSource(cfg.seed, cfg.data.sign)
    return ImageSource(cfg.seed, open_table(cfg), cfg.data.ways, cfg.data.train_ways)


def open_table(cfg: DictConfig) -> Table:
    """The prepared table of an image set, prepared now if it is not there; UserError where its files are not."""
    data, path = cfg.data, Path(cfg.data.path) if "path" in cfg.data else None
    return open_or_prepare(
        data.name, Path(cfg.paths.raw), Path(cfg.paths.prepared), data.size, data.channels, path
    )


def announced(name: str, source: Source) -> Source:
    """The source, after what a user should know of it has been printed."""
    if source.note:
        print(f"data={name}: {source.note}", file=sys.stderr)
    return source


def make_datamodule(
    cfg: DictConfig, source: Source, stages: Sequence[str] = ("fit", "test")
) -> EpisodicDataModule:
    """The run's data module; UserError where one of `stages` needs more classes or images than there are."""
    told = {name: cfg.data[name] for name in OF_DATA} | {name: cfg.trainer[name] for name in OF_TRAINER}
    datamodule = EpisodicDataModule(source, cfg.shots, cfg.method.meta_batch_size, **told)
    for stage in stages:
        datamodule.setup(stage)
    return datamodule


def make_learner(cfg: DictConfig, task: Task, trained: bool = False) -> MetaLearner:
    """The learner that `cfg.method` and `cfg.backbone` name; it hears of its task's shape and nothing else.

    A `trained` one will be given its own weights: no file of pretrained ones is read.
    """
    told = learner_options(cfg)
    if trained and "weights" in told["backbone"]:
        told["backbone"]["weights"] = None
    return learner_class(cfg.method.name)(task=task, **told)


def make_lightning(method: str, **settings: Any) -> L.Trainer:
    """Lightning's trainer, on one device unless told otherwise; UserError for what it refuses.

    `precision` is Lightning's, or "tf32": "32-true", with 19 of the 32 bits in what a GPU multiplies, which is torch's
    default for convolutions and here is not.
    """
    tf32 = settings.get("precision") == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        trainer = L.Trainer(
            inference_mode=False,  # learners differentiate at test time
            use_distributed_sampler=False,
            **{"devices": 1, "enable_model_summary": False}
            | settings
            | ({"precision": "32-true"} if tf32 else {}),
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"this machine has no such accelerator, or not in this precision: {error}") from error
    if method == "lstm" and trainer.precision != "32-true" and trainer.strategy.root_device.type == "cpu":
        raise UserError(
            f"precision {trainer.precision}: torch's LSTM has none but 32-true on every CPU, choose that"
        )
    return trainer
