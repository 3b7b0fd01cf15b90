"""Checks of a configuration before any data is touched. What a constructor declares is checked there."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import flatten, plain
from fewshot.config.settings import Evaluation, OutputPaths, Paths, Run, Trainer, Wandb, declarations
from fewshot.errors import UserError, one_line
from fewshot.methods import MetaLearner
from fewshot.options import check_settings, settings_of

GROUPS = ("method", "data", "backbone", "trainer", "logger", "paths")


def check(cfg: DictConfig) -> None:
    """UserError for settings that are missing, wrong, or do not fit together."""
    check_settings(Run, {str(name): value for name, value in cfg.items() if name not in GROUPS})
    try:
        declared = declarations(cfg, "train")
        learner: type[MetaLearner] = get_class(cfg.method._target_)
    except ImportError as error:
        raise UserError(f"{one_line(error)}: it has to be on the Python path") from error
    if unknown := [name for name, annotation in declared.items() if annotation is Any]:
        raise UserError(f"unknown setting {unknown[0]}: --help lists all")
    if cfg.data.name == "sine" and not learner.regression:
        raise UserError(f"method={cfg.method.name} classifies, and data=sine is regression")
    missing = [name for name, value in flatten(OmegaConf.to_container(cfg)).items() if value == "???"]
    if not missing:
        values = plain(cfg)
        missing = [name for name, value in flatten(values).items() if value == "???"]
    if missing:
        what = f"method={cfg.method.name} data={cfg.data.name} shots={cfg.shots}"
        raise UserError(f"no published settings for {what}: set {' '.join(f'{name}=…' for name in missing)}")
    check_settings(Trainer, values["trainer"], "trainer.")
    check_settings(OutputPaths, values["paths"], "paths.")
    if cfg.logger.name == "wandb":
        check_settings(Wandb, {name: values["logger"][name] for name in settings_of(Wandb)}, "logger.")
    check_together(cfg)


def check_together(cfg: DictConfig) -> None:
    trainer, method = cfg.trainer, cfg.method
    if trainer.num_threads > (cores := os.cpu_count() or 1024):
        raise UserError(f"trainer.num_threads={trainer.num_threads}: there are {cores} processors")
    if trainer.val_check_interval > trainer.max_steps:
        raise UserError(
            f"trainer.val_check_interval={trainer.val_check_interval} is more than "
            f"trainer.max_steps={trainer.max_steps}"
        )
    clips = method.get("grad_clip") or trainer.gradient_clip_val
    if trainer.precision == "16-mixed" and clips:
        raise UserError(
            "trainer.precision=16-mixed scales gradients before they are clipped: choose bf16-mixed"
        )
    each = method.get("grad_clip_each") and method.get("grad_clip")
    if each and (trainer.micro_batch_size or trainer.devices > 1):
        raise UserError(
            "method.grad_clip_each=true clips after each task: leave out trainer.micro_batch_size and "
            "trainer.devices"
        )
    similar = trainer.similarity != "none"
    if similar and (method.name != "oplstm" or cfg.data.name == "sine"):
        raise UserError("trainer.similarity is for method=oplstm on images")
    if similar and (trainer.devices > 1 or cfg.logger.name == "none"):
        raise UserError("trainer.similarity is measured on one device, and needs a logger")
    if method.meta_batch_size % trainer.devices:
        raise UserError(
            f"trainer.devices={trainer.devices} cannot share "
            f"method.meta_batch_size={method.meta_batch_size} equally"
        )
    if min(trainer.num_val_tasks, trainer.num_test_tasks) < trainer.devices:
        raise UserError(f"trainer.devices={trainer.devices} is more than the tasks of a validation or test")
    if cfg.logger.name == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard needs tensorboard: pip install tensorboard")
    for name in cfg.data.get("test", []):
        if list(cfg.data.test).count(name) > 1 or name == cfg.data.name:
            raise UserError(
                f"data.test={list(cfg.data.test)}: {name} is tested once, and the run's own data anyway"
            )


def check_evaluation(cfg: DictConfig) -> None:
    values = plain(cfg)
    if values["run"] == "???":
        raise UserError("run=…: give the folder of a run, which train.py prints")
    paths = values.pop("paths")
    check_settings(Evaluation, values)
    check_settings(Paths, paths, "paths.")
    if not Path(cfg.run).is_dir():
        raise UserError(f"run={cfg.run} is no folder")
