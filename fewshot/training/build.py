"""From a composed configuration to the objects that it names: data, learner and Lightning's trainer."""

import ctypes
import os
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_class
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from fewshot.config.compose import composed, plain
from fewshot.data.datamodule import EpisodicDataModule, Source
from fewshot.data.images import open_or_prepare
from fewshot.episodes import Task
from fewshot.errors import UserError
from fewshot.methods import MetaLearner
from fewshot.options import settings_of

DEFAULT_THREADS = torch.get_num_threads()
# without a GPU Lightning would let Adam look for NVIDIA's library in every update: .1 ms
if not torch.cuda.is_available():
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def set_threads(number: int, devices: int = 1) -> None:
    """Torch's threads on the CPU in each of the run's processes; 0: its own choice."""
    torch.set_num_threads(number or max(DEFAULT_THREADS // devices, 1))


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory for the next tensors: otherwise a third of Conv-4's time goes into
    clearing pages."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def make_source(cfg: DictConfig) -> Source:
    """Where tasks come from; an image table is prepared now if it is not there."""
    source = get_class(cfg.data._target_)
    own = {name: cfg.data[name] for name in settings_of(source) if name in cfg.data}
    if "table" in signature(source).parameters:
        path = Path(cfg.data.path) if "path" in cfg.data else None
        raw, prepared = Path(cfg.paths.raw), Path(cfg.paths.prepared)
        own["table"] = open_or_prepare(cfg.data.name, raw, prepared, cfg.data.size, cfg.data.channels, path)
    made: Source = source(**own | {"seed": cfg.seed})
    return made


def print_note(cfg: DictConfig, source: Source) -> None:
    """What a user should know about the data."""
    if source.note:
        print(f"data={cfg.data.name}: {source.note}", file=sys.stderr)


def make_datamodule(cfg: DictConfig, *stages: str) -> EpisodicDataModule:
    """A run's data module; UserError where one of `stages` needs more classes or images than there are."""
    settings = {**cfg.data, **cfg.trainer, "shots": cfg.shots, "meta_batch_size": cfg.method.meta_batch_size}
    own = {name: settings[name] for name in settings_of(EpisodicDataModule)}
    datamodule = EpisodicDataModule(make_source(cfg), **own)
    for stage in stages:
        datamodule.setup(stage)
    return datamodule


def make_learner(cfg: DictConfig, task: Task, trained: bool = False) -> MetaLearner:
    """The learner that `cfg.method` and `cfg.backbone` name; it knows its task's shape and nothing else of
    the data.

    A `trained` one will be given its own weights: no file of pretrained ones is read.
    """
    get_class(cfg.backbone._target_)  # imports a module of the user's own
    settings = plain(cfg)
    method, backbone = settings["method"], settings["backbone"]
    if backbone.get("bn") == "stored" and backbone["weights"] is None:
        raise UserError("backbone.bn=stored takes its statistics from a file: give backbone.weights")
    if trained and "weights" in backbone:
        backbone["weights"] = None
    own = {
        name: value for name, value in method.items() if name not in ("name", "_target_", "meta_batch_size")
    }
    learner: MetaLearner = get_class(method["_target_"])(task=task, backbone=backbone, **own)
    if not learner.uses_backbone and (unused := backbone_diff(cfg)):
        raise UserError(
            f"method={cfg.method.name} reads its inputs raw and would not use {', '.join(unused)}"
        )
    return learner


def backbone_diff(cfg: DictConfig) -> list[str]:
    """The settings of the backbone that are not the default ones of the data."""
    usual = plain(composed([f"data={cfg.data.name}", f"method={cfg.method.name}"]))["backbone"]
    return [f"backbone.{name}={value}" for name, value in cfg.backbone.items() if value != usual.get(name)]


def assemble(cfg: DictConfig) -> tuple[EpisodicDataModule, MetaLearner]:
    """What a run trains on, and what it trains: the same in each process that shares a run."""
    set_threads(cfg.trainer.num_threads, cfg.trainer.devices)
    keep_freed_memory()
    datamodule = make_datamodule(cfg, "fit", "test")
    print_note(cfg, datamodule.source)
    L.seed_everything(cfg.seed, verbose=False)
    learner = make_learner(cfg, datamodule.source.task)
    learner.micro_batch_size = cfg.trainer.micro_batch_size
    return datamodule, learner


def make_trainer(method: str, **settings: Any) -> L.Trainer:
    """Lightning's trainer, on one device by default; UserError for what it refuses.

    `precision` is Lightning's, or "tf32": "32-true", with 19 of the 32 bits in what a GPU multiplies, which
    is torch's default for convolutions and here is not.
    """
    tf32 = settings.get("precision") == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    if tf32:
        settings["precision"] = "32-true"
    try:
        trainer = L.Trainer(
            inference_mode=False,  # learners differentiate at test time
            use_distributed_sampler=False,
            **{"devices": 1, "enable_model_summary": False} | settings,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"this machine has no such accelerator, or not in this precision: {error}") from error
    device = trainer.strategy.root_device.type
    if tf32 and device != "cuda":
        raise UserError(
            f"trainer.precision=tf32 is for NVIDIA's GPUs, and this runs on {device}: choose 32-true"
        )
    if method == "lstm" and trainer.precision != "32-true" and device == "cpu":
        raise UserError(
            f"precision {trainer.precision}: torch's LSTM has none but 32-true on every CPU, choose that"
        )
    return trainer
