"""Checks of a configuration before any data is touched; every message names the key and the mend.

What a setting may be alone is declared where it is used (`options.py`); here is what concerns two at once.
"""

import os
import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.backbones import told
from fewshot.config.compose import config_file, flatten
from fewshot.config.settings import SHARED, declared, known, learner_options
from fewshot.errors import UserError
from fewshot.files import weights_file
from fewshot.methods import learner_class
from fewshot.options import check_values, nearest


def check(cfg: DictConfig) -> None:
    """Raises UserError for settings that are unknown, missing, or wrong, alone or together."""
    method, data = (str(OmegaConf.select(cfg, f"{group}.name")) for group in ("method", "data"))
    if data == "sine" and not learner_class(method).regression:
        raise UserError(
            f"method={method} classifies and data=sine is regression: choose another method or data"
        )
    check_alone(cfg, "train")
    check_together(cfg)
    learner = learner_class(method)
    if (ways := cfg.data.get("train_ways")) is not None and learner.has_head:
        why = "has one output per class of a test task: leave it out, or choose method=protonet"
        raise UserError(f"data.train_ways={ways}: method={method} {why}")
    if cfg.trainer.compile is True and learner.repeated is None and not learner.one_graph:
        raise UserError(
            f"trainer.compile=true: method={method} names no part of it to compile, choose auto or false"
        )
    try:
        learner.check(**learner_options(cfg))
    except UserError as error:
        raise UserError(re.sub(rf"\b({'|'.join(cfg.method)})=", r"method.\1=", str(error))) from error


def check_there(cfg: DictConfig) -> None:
    """UserError for files, packages and processors that a training needs and that are not there."""
    if cfg.trainer.num_threads > (cores := os.cpu_count() or 1024):
        raise UserError(
            f"trainer.num_threads={cfg.trainer.num_threads} is more than the {cores} processors here"
        )
    for name in cfg.data.get("test", []):
        if name not in SHARED and not Path(name).expanduser().is_dir():
            raise UserError(f"data.test={list(cfg.data.test)}: {name} is no folder, add it or leave it out")
    weights = cfg.backbone.get("weights")
    if weights is not None and not weights_file(Path(weights)).is_file():
        why = "has no best.ckpt" if Path(weights).is_dir() else "is no file"
        raise UserError(f"backbone.weights={weights} {why}: leave it out for random weights")
    if cfg.logger.name == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard needs tensorboard: pip install tensorboard")


def check_evaluation(cfg: DictConfig) -> None:
    """The same for the keys of `evaluate.py`; null means as trained."""
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("give the folder of a run, as run=outputs/…: train.py prints it")
    check_alone(cfg, "evaluate")


def check_alone(cfg: DictConfig, program: str) -> None:
    """UserError for a setting that is unknown, not given, or not what it may be."""
    kinds, values = declared(cfg, program), flatten(OmegaConf.to_container(cfg))
    for name in values:
        if inside := [key for key in kinds if key.startswith(f"{name}.")]:
            raise UserError(f"{name}={values[name]}: this is a group of settings, give one as {inside[0]}=…")
        if name not in kinds:
            file = config_file("method", OmegaConf.select(cfg, "method.name"))
            own = (
                name.startswith("method.")
                and file.is_file()
                and name.removeprefix("method.") in OmegaConf.load(file)
            )
            raise UserError(
                f"unknown setting {name!r}{f' in {file}' if own else ''}: {closest(name, program)}"
            )
    check_values(
        kinds, {name: value for name, value in values.items() if value != "???" and "${" not in str(value)}
    )
    refuse_unset(cfg, values)
    values = flatten(OmegaConf.to_container(cfg, resolve=True))
    refuse_unset(cfg, values)
    if left_out := [
        name for name in kinds if name not in values and not name.startswith("trainer.lightning.")
    ]:
        group = left_out[0].split(".")[0]
        where = f" to {config_file(group, cfg[group].name)}" if group in ("method", "backbone") else ""
        raise UserError(f"the setting {left_out[0]} is left out: add it{where}")
    check_values(kinds, values)


def refuse_unset(cfg: DictConfig, values: dict[str, Any]) -> None:
    if unset := [name for name, value in values.items() if value == "???"]:
        if "method" not in cfg:
            raise UserError(f"{unset[0]}=???: give a value")
        what = f"method={cfg.method.name} data={cfg.data.name} shots={cfg.shots}"
        raise UserError(f"no settings for {what}: set " + " ".join(f"{name}=…" for name in unset))


def closest(name: str, program: str) -> str:
    """Which setting may have been meant."""
    names = known(program)
    if name in names:
        return "the method or data chosen has none, or its YAML leaves it out; --help shows all"
    if own := [n for n in names if n.endswith(f".{name}")]:
        return f"did you mean {own[0]}? --help shows them all"
    close = get_close_matches(name, [*names, *{n.split(".")[0] for n in names}], n=1, cutoff=0.4)
    return (f"did you mean {close[0]}? " if close else "") + "--help shows them all"


def check_together(cfg: DictConfig) -> None:
    sine, method, backbone = cfg.data.name == "sine", cfg.method, cfg.backbone
    for name in cfg.data.get("test", []):
        if name == cfg.data.name:
            raise UserError(f"data.test={list(cfg.data.test)}: a run is tested on its own {name} in any case")
        if list(cfg.data.test).count(name) > 1:
            raise UserError(f"data.test={list(cfg.data.test)}: {name} stands there twice")
        if name not in SHARED and "/" not in name and not Path(name).expanduser().exists():
            raise UserError(
                f"data.test={list(cfg.data.test)}: {name} is no folder: choose {nearest(name, SHARED)}"
            )
    if backbone.get("bn") == "stored" and backbone.get("weights") is None:
        raise UserError(
            "backbone.bn=stored takes its statistics from a file of weights: give backbone.weights"
        )
    if cfg.trainer.micro_batch_size and method.get("grad_clip_each") and method.get("grad_clip"):
        raise UserError(
            "trainer.micro_batch_size is for gradients that add up: with method.grad_clip_each=true leave it null"
        )
    check_shared(cfg)
    if cfg.trainer.precision == "16-mixed" and (
        method.get("grad_clip") or cfg.trainer.lightning.get("gradient_clip_val")
    ):
        raise UserError(
            "trainer.precision=16-mixed scales gradients, which would be clipped as scaled: choose bf16-mixed"
        )
    if cfg.trainer.val_check_interval > cfg.trainer.max_steps:
        raise UserError(
            f"trainer.val_check_interval={cfg.trainer.val_check_interval} is more than trainer.max_steps={cfg.trainer.max_steps}"
        )
    try:
        body, own = told(learner_options(cfg)["backbone"])
        body.check((1,) if sine else (cfg.data.channels, cfg.data.size, cfg.data.size), **own)
    except UserError as error:
        raise UserError(f"backbone={backbone.name} does not fit data={cfg.data.name}: {error}") from error
    if cfg.trainer.similarity != "none" and (method.name != "oplstm" or sine):
        raise UserError(f"trainer.similarity={cfg.trainer.similarity} is for method=oplstm on images")
    if cfg.trainer.similarity != "none" and cfg.logger.name == "none":
        raise UserError(
            f"trainer.similarity={cfg.trainer.similarity} is drawn from a log: choose logger=csv or wandb"
        )
    if method.name == "lstm" and backbone.get("layer") == "linear":
        usual = OmegaConf.load(config_file("backbone", "mlp" if sine else "fc"))
        if unused := [key for key, value in backbone.items() if value != usual.get(key)]:
            setting = f"backbone.{unused[0]}={backbone[unused[0]]}".replace(".name=", "=")
            raise UserError(f"method=lstm reads its inputs raw, {setting} would not be used: leave it out")


def check_shared(cfg: DictConfig) -> None:
    """UserError for what several devices cannot share."""
    devices = cfg.trainer.devices
    if devices == 1:
        return
    if cfg.method.meta_batch_size % devices:
        raise UserError(
            f"trainer.devices={devices} cannot share method.meta_batch_size={cfg.method.meta_batch_size} equally"
        )
    if cfg.method.get("grad_clip_each") and cfg.method.get("grad_clip"):
        raise UserError(
            f"trainer.devices={devices} is for gradients that add up: with method.grad_clip_each=true, which clamps after "
            "each task in turn, leave it at 1"
        )
    if cfg.trainer.similarity != "none":
        raise UserError(
            f"trainer.similarity={cfg.trainer.similarity} is measured on one device: leave trainer.devices at 1"
        )
    if few := [name for name in ("num_val_tasks", "num_test_tasks") if cfg.trainer[name] < devices]:
        raise UserError(f"trainer.{few[0]}={cfg.trainer[few[0]]} is fewer than trainer.devices={devices}")
