"""From a composed configuration to the objects that it names: data, learner and Lightning's trainer."""

import ctypes
import hashlib
import json
import logging
import os
import sys
import warnings
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_class
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, RichProgressBar, Timer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from omegaconf import DictConfig

from fewshot.backbones.base import make_body
from fewshot.config.compose import plain
from fewshot.config.run_id import config_diff, identity, table_name
from fewshot.data.arrays import read_arrays
from fewshot.data.datamodule import EpisodicDataModule, Source
from fewshot.data.images import open_or_prepare
from fewshot.data.row_source import RowSource
from fewshot.data.table import Table
from fewshot.episodes import Task
from fewshot.errors import UserError
from fewshot.methods import MetaLearner
from fewshot.options import settings_of
from fewshot.training.callbacks import Checkpoints, MetricsCsv, TrainMetrics
from fewshot.training.distributed import strategy_settings
from fewshot.training.features import VERSION, FeatureSource, feature_table
from fewshot.training.folder import AtomicCheckpointIO
from fewshot.training.similarity import Similarity
from fewshot.training.update import WholeUpdate

DEFAULT_THREADS = torch.get_num_threads()
# without a GPU Lightning would let Adam look for NVIDIA's library in every update: .1 ms
if not torch.cuda.is_available():
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def prepare_process(num_threads: int | None, devices: int = 1) -> None:
    """Sets the threads of each of a run's processes, 0 for torch's choice, and hides Lightning's advice.

    Warnings about what a run computes stay. glibc keeps freed memory: otherwise a third of Conv-4's time goes
    into clearing pages.
    """
    for name in ("lightning.pytorch", "lightning.fabric", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore", PossibleUserWarning)
    warnings.filterwarnings("ignore", ".*LeafSpec")
    torch.set_num_threads(num_threads or max(DEFAULT_THREADS // devices, 1))
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max, libc = -1, -4, ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def make_datamodule(cfg: DictConfig, *stages: str) -> EpisodicDataModule:
    """A run's data module, set up for `stages`."""
    settings = {**cfg.data, **cfg.trainer, "seed": cfg.seed, "shots": cfg.shots}
    settings["meta_batch_size"] = cfg.method.meta_batch_size
    target = get_class(cfg.data._target_)
    own = {name: settings[name] for name in settings_of(target) if name in settings}
    if "table" in signature(target).parameters:
        own["table"] = table_of(cfg)
        if note := own["table"].note:
            print(f"data={cfg.data.name}: {note}", file=sys.stderr)
    source = target(**own)
    if cfg.backbone.get("frozen"):
        source = frozen(cfg, source)
    sizes = {name: settings[name] for name in settings_of(EpisodicDataModule)}
    datamodule = EpisodicDataModule(source, **sizes)
    for stage in stages:
        datamodule.setup(stage)
    return datamodule


def frozen(cfg: DictConfig, source: Source) -> FeatureSource:
    """The tasks of `source` on features of the frozen backbone, which lie beside the prepared tables."""
    if not (cfg.backbone.get("weights") and isinstance(source, RowSource)):
        raise UserError("backbone.frozen=true needs backbone.weights, and data from files")
    options = {name: value for name, value in plain(cfg.backbone).items() if name != "frozen"}
    make, name = partial(make_body, source.task.input_shape, options), table_name(cfg)
    prepared = getattr(source.table.rows, "filename", None)  # of images; the name of arrays has their date
    stamp = prepared and [Path(prepared).parent.name, Path(prepared).stat().st_mtime_ns]
    facts = [VERSION, name, stamp, source.task.input_shape, identity(cfg)["backbone"]]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
    path = Path(cfg.paths.prepared, f"{name}-{cfg.backbone.name}-{digest}.npy")
    on_gpu = torch.cuda.is_available() and cfg.trainer.accelerator != "cpu"
    table = feature_table(source, path, make, torch.device("cuda" if on_gpu else "cpu"))
    return FeatureSource(cfg.seed, table, source.ways["test"], source.task.train_outputs)


def table_of(cfg: DictConfig) -> Table:
    """The examples of a run's data; images are prepared now if they are not there."""
    path = Path(cfg.data.path) if "path" in cfg.data else None
    if path and cfg.data.name == "arrays":
        return read_arrays(path)
    raw, prepared = Path(cfg.paths.raw), Path(cfg.paths.prepared)
    return open_or_prepare(cfg.data.name, raw, prepared, cfg.data.size, cfg.data.channels, path)


def make_learner(cfg: DictConfig, task: Task, trained: bool = False) -> MetaLearner:
    """The learner that `cfg` names; a `trained` one gets its weights later, none of backbone.weights."""
    get_class(cfg.backbone._target_)  # imports a module of the user's own
    options, backbone = plain(cfg.method), plain(cfg.backbone)
    if trained and "weights" in backbone:
        backbone["weights"] = None
    if backbone.pop("frozen", False):
        backbone = {"_target_": "fewshot.backbones.raw.Raw"}
    target = get_class(options.pop("_target_"))
    del options["name"], options["meta_batch_size"]
    learner: MetaLearner = target(task=task, backbone=backbone, **options)
    random = next(learner.parameters(), None) is not None and backbone.get("weights") is None
    if random and not (trained or learner.is_trained):
        raise UserError(f"method={cfg.method.name} is not trained: give backbone.weights, or backbone=raw")
    if not (trained or learner.uses_backbone or cfg.backbone.get("frozen") or cfg.backbone.name == "raw"):
        unused = [f"{key}={value}" for key, value in config_diff(cfg).items() if key.startswith("backbone.")]
        if unused:
            raise UserError(f"method={cfg.method.name} reads its inputs raw and would not use {unused[0]}")
    return learner


def assemble(cfg: DictConfig, folder: Path) -> tuple[EpisodicDataModule, MetaLearner, L.Trainer]:
    """What a run trains on, what it trains, and by what: the same in each process that shares a run."""
    prepare_process(cfg.trainer.num_threads, cfg.trainer.devices)
    datamodule = make_datamodule(cfg, "fit", "test")
    L.seed_everything(cfg.seed, verbose=False)
    learner = make_learner(cfg, datamodule.source.task)
    learner.micro_batch_size = cfg.trainer.micro_batch_size
    return datamodule, learner, make_trainer(cfg, folder)


def make_trainer(cfg: DictConfig, folder: Path) -> L.Trainer:
    """Lightning's trainer, with its own settings as `cfg` has them, and the project's callbacks.

    Its `precision` may also be "tf32": 19 of the 32 bits in a GPU's products.
    """
    settings, timer = cfg.trainer, Timer()
    bar, tf32 = settings.enable_progress_bar and sys.stdout.isatty(), settings.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    used: list[Callback] = [
        *([Similarity(settings.similarity)] if settings.similarity != "none" else []),
        WholeUpdate(settings),
        TrainMetrics(cfg.method.meta_batch_size, settings.log_every_n_steps),
        timer,
        Checkpoints(folder, cfg, timer),
        *([RichProgressBar(refresh_rate=20)] if bar else []),
    ]
    own = {name: settings[name] for name in signature(L.Trainer).parameters if name in settings}
    own |= {"max_epochs": 1, "max_time": None, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    own |= {"callbacks": used, "enable_progress_bar": bar, "default_root_dir": folder}
    own |= {"log_every_n_steps": 0, "logger": False}  # TrainMetrics logs; the loggers come later
    own |= {"inference_mode": False}  # learners differentiate in a test
    own |= {"precision": "32-true" if tf32 else settings.precision} | strategy_settings(settings.devices)
    own["plugins"].append(AtomicCheckpointIO())
    try:
        return L.Trainer(**own)
    except (MisconfigurationException, ValueError) as error:
        raise UserError(str(error)) from error


def make_loggers(cfg: DictConfig, folder: Path, done: int) -> list[Any]:
    """metrics.csv, and W&B or TensorBoard, as `cfg` says; what was logged after update `done` is dropped."""
    if cfg.logger.name == "none":
        return []
    metrics = MetricsCsv(folder / "metrics.csv", done)
    if cfg.logger.name == "wandb":
        from fewshot.training.wandb_log import start_wandb  # takes more than half a second

        return [metrics, WandbLogger(experiment=start_wandb(cfg, folder))]
    if cfg.logger.name == "tensorboard":
        return [metrics, TensorBoardLogger(folder, "", "tensorboard", purge_step=done + 1, flush_secs=1)]
    return [metrics]
