"""The first step of a run: its data, its learner and its folder; mistakes are told before anything is lost."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from fewshot.config.checks import check_there
from fewshot.config.eval_config import further_tests
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import UserError
from fewshot.files import atomic_write
from fewshot.jobs import note_job
from fewshot.memory import keep_freed_memory
from fewshot.methods.base import MetaLearner
from fewshot.results.record import NO_SCORES, Scores, describe
from fewshot.training.build import (
    announced,
    make_datamodule,
    make_learner,
    make_lightning,
    make_source,
    use_threads,
)
from fewshot.training.finished import table_of
from fewshot.training.split import check_split, keep_split


@dataclass
class Run:
    """What the steps of a run share."""

    cfg: DictConfig
    folder: Path
    learner: MetaLearner
    datamodule: EpisodicDataModule
    description: dict[str, Any]  # the part of the result that the configuration settles
    wandb: Any = None  # the W&B run
    scores: Scores = NO_SCORES  # of its test
    predictions: Any = None  # of its test, a table, where they are kept


def refuse_impossible(cfg: DictConfig) -> None:
    """UserError, before any work on data, for what is not there: a file, a logger or a device."""
    check_there(cfg)
    where = {key: cfg.trainer[key] for key in ("accelerator", "precision", "devices")}
    device = make_lightning(cfg.method.name, **where, logger=False).strategy.root_device
    if cfg.trainer.precision == "tf32" and device.type != "cuda":
        raise UserError(
            f"trainer.precision=tf32 is for NVIDIA's GPUs, and this runs on {device.type}: choose 32-true"
        )


def prepare(cfg: DictConfig, folder: Path) -> Run:
    """Data, learner and the run's folder; UserError before anything is deleted or trained."""
    datamodule, learner = assemble(cfg)
    source = datamodule.source
    if not cfg.overwrite:
        refuse_no_files(folder)
        check_split(folder, source)
    prepare_further_tests(cfg)
    if cfg.overwrite:
        for path in folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        note_job(folder)
    for part in folder.glob("*.part"):  # what a kill left of a file
        part.unlink()
    atomic_write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    keep_split(folder, source, table_of(cfg))
    description = describe(cfg, learner)
    what = "{method} on {data}: {parameters} parameters, backbone {backbone}, bn {bn}, variant {variant}"
    size = f"{cfg.trainer.max_steps} updates of {cfg.method.meta_batch_size} tasks"
    print(f"{what.format(**description)}, {size}", file=sys.stderr)
    return Run(cfg, folder, learner, datamodule, description)


def assemble(cfg: DictConfig) -> tuple[EpisodicDataModule, MetaLearner]:
    """What is trained, and on what: the same in each process that shares a run."""
    use_threads(cfg.trainer.num_threads, cfg.trainer.devices)
    keep_freed_memory()
    source = announced(cfg.data.name, make_source(cfg))
    datamodule = make_datamodule(cfg, source)
    L.seed_everything(cfg.seed, verbose=False)
    learner = make_learner(cfg, source.task)
    learner.micro_batch_size = cfg.trainer.micro_batch_size
    learner.keep_predictions = cfg.predictions
    return datamodule, learner


def refuse_no_files(folder: Path) -> None:
    """UserError for a folder or a pipe in a file's place: what cannot be written would be told after the training."""
    for path in folder.iterdir():
        if path.suffix in (".json", ".csv", ".yaml", ".ckpt") and not path.is_file():
            raise UserError(f"{path} is no file: take it away, or overwrite=true does")


def prepare_further_tests(cfg: DictConfig) -> None:
    """Their data are prepared now, or refused."""
    for further in further_tests(cfg):
        try:
            make_datamodule(further, make_source(further), ["test"])
        except UserError as error:
            what = further.data.get("path", further.data.name)
            mend = "or leave it out, and test on it later by evaluate.py, which takes queries=…"
            raise UserError(f"data.test names {what}: {error}; {mend}") from error
