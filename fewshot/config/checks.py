"""Checks of a configuration before any data is touched; every message names the key and the mend."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import flatten
from fewshot.errors import UserError

POSITIVE_INTEGERS = (
    "shots",
    "data.ways",
    "data.size",
    "data.channels",
    "data.train_shots",
    "data.train_queries",
    "data.val_queries",
    "data.test_queries",
    "backbone.widths",
    "method.meta_batch",
    "method.passes",
    "method.steps",
    "method.eval_steps",
    "method.hidden",
    "method.cells",
    "trainer.updates",
    "trainer.val_every",
    "trainer.val_tasks",
    "trainer.test_tasks",
    "trainer.eval_batch",
    "trainer.save_every",
    "trainer.log_every",
)
MOST = 10**9  # of any whole number, and of those that could only make a run that never ends or fits:
MOST_OF = {
    "shots": 10_000,
    "data.ways": 10_000,
    "data.size": 10_000,
    "data.train_shots": 10_000,
    "data.train_queries": 10_000,
    "data.val_queries": 10_000,
    "data.test_queries": 10_000,
    "backbone.widths": 100_000,
    "method.hidden": 100_000,
    "method.cells": 10_000,
    "method.meta_batch": 100_000,
    "method.passes": 10_000,
    "method.steps": 10_000,
    "method.eval_steps": 10_000,
    "trainer.eval_batch": 100_000,
}
THREADS = 1024  # more than any processor has; torch dies of some thousands
POSITIVE_NUMBERS = ("method.lr", "method.inner_lr", "method.clamp", "method.gamma")
FLAGS = (
    "force",
    "trainer.bar",
    "backbone.zero_bias",
    "method.first_order",
    "method.clamp_each",
    "method.pool_cell",
    "method.query_cell",
    "method.first_labels",
    "method.pool_state",
    "method.softmax",
    "method.head_only",
    "method.last_loss",
    "method.centred",
    "method.preactivation",
    "method.detach",
    "method.scalar_bias",
)
OPTIONAL = ("method.clamp", "method.gamma")
TEST_SETS = ("omniglot", "mini", "cub", "cub50", "glyphs")
LISTS = ("data.test", "backbone.widths", "method.hidden", "method.cells")
NAMES = ("method.name", "data.name", "backbone.name", "logger.name")
TEXTS = (*NAMES, "paths.raw", "paths.prepared", "paths.outputs", "data.path", "trainer.accelerator", "run")
OF_A_TEST = ("shots", "queries", "ways", "tasks", "eval_batch")
CHOICES: dict[str, tuple[Any, ...]] = {
    "form": ("released", "text"),
    "backbone.bn": ("none", "transductive", "support"),
    "backbone.layer": ("linear", "conv"),
    "method.support": ("set", "sequence"),
    "method.inputs": ("target", "prev_target", "prev_target_pred", "prev_target_err", "prev_target_pred_err"),
    "method.normalisation": ("example", "matrix", "joint", "none"),
    "trainer.similarity": ("none", "text", "released"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed"),
    "data.channels": (1, 3),
    "data.sign": (1, -1),
}


def check(cfg: DictConfig) -> None:
    """Raises UserError for missing settings, values out of range and combinations that make no sense."""
    check_groups(cfg, ("data", "method", "backbone", "trainer", "logger", "paths"))
    if cfg.data.name == "sine" and cfg.method.name == "protonet":
        raise UserError("method=protonet classifies and data=sine is regression: choose another method or data")
    missing = [key for key, value in flatten(OmegaConf.to_container(cfg)).items() if value == "???"]
    if missing:
        what = f"method={cfg.method.name} data={cfg.data.name} shots={cfg.shots}"
        raise UserError(f"no settings for {what}: set " + " ".join(f"{key}=…" for key in missing))
    check_lists_and_texts(cfg)
    for key in POSITIVE_INTEGERS:
        check_values(cfg, key, is_positive_integer, "a positive whole number")
        most = MOST_OF.get(key, MOST)
        check_values(cfg, key, lambda v, most=most: v <= most, f"at most {most}")
    for key in POSITIVE_NUMBERS:
        check_values(cfg, key, lambda v: type(v) in (int, float) and 0 < v < float("inf"), "a positive number")
    for key in FLAGS:
        check_values(cfg, key, lambda v: type(v) is bool, "true or false")
    for key, choices in CHOICES.items():
        value = OmegaConf.select(cfg, key, default="absent")
        if value != "absent" and value not in choices:
            raise UserError(f"{key}={value}: choose {nearest(str(value), [str(c) for c in choices])}")
    check_values(cfg, "seed", lambda v: type(v) is int and 0 <= v < 2**32, "a whole number from 0 to 2**32 - 1")
    check_values(cfg, "trainer.threads", is_threads, f"a whole number up to {THREADS}, 0 for torch's choice")
    seconds(cfg.trainer.max_time)
    for name in cfg.data.get("test") or []:
        if "sine" in (name, cfg.data.name):
            raise UserError(f"data.test={list(cfg.data.test)}: sine waves and images have other inputs, leave it out")
        if name not in TEST_SETS or name == cfg.data.name:
            others = [other for other in TEST_SETS if other != cfg.data.name]
            why = f"a run is tested on its own {name} in any case, " if name == cfg.data.name else ""
            raise UserError(f"data.test={list(cfg.data.test)}: {why}choose {nearest(str(name), others)}")
        if list(cfg.data.test).count(name) > 1:
            raise UserError(f"data.test={list(cfg.data.test)}: {name} stands there twice")
    check_combination(cfg)


def check_evaluation(cfg: DictConfig) -> None:
    """The same for the keys of `evaluate.py`; null means as trained."""
    check_groups(cfg, ("paths",))
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("give the folder of a run, as run=outputs/…: train.py prints it")
    check_lists_and_texts(cfg)
    for key in ("data", "path"):
        if cfg[key] is not None and not (isinstance(cfg[key], str) and cfg[key]):
            raise UserError(f"{key}={cfg[key]}: give a name")
    for key in OF_A_TEST:
        if cfg[key] is not None and not (is_positive_integer(cfg[key]) and cfg[key] <= MOST_OF.get(key, MOST)):
            raise UserError(f"{key}={cfg[key]}: give a positive whole number, at most {MOST_OF.get(key, MOST)}")
    check_values(cfg, "threads", is_threads, f"a whole number up to {THREADS}, 0 for torch's choice")
    for key in ("bar", "pictures"):
        check_values(cfg, key, lambda v: type(v) is bool, "true or false")


def check_groups(cfg: DictConfig, groups: Sequence[str]) -> None:
    for group in groups:
        if not OmegaConf.is_dict(cfg[group]):
            raise UserError(f"{group}={cfg[group]}: this is a group of settings, give one as {group}.…=")


def check_lists_and_texts(cfg: DictConfig) -> None:
    for key in LISTS:
        value = OmegaConf.select(cfg, key, default=[])
        if not OmegaConf.is_list(value) and value != []:
            raise UserError(f"{key}={value}: give a list, as {key}={'[glyphs]' if key == 'data.test' else '[64,64]'}")
    for key in TEXTS:
        value = OmegaConf.select(cfg, key, default="absent")
        if not (isinstance(value, str) and value):
            raise UserError(f"{key}={value}: give a path or a name")


def is_positive_integer(value: Any) -> bool:
    return type(value) is int and value > 0


def is_threads(value: Any) -> bool:
    return type(value) is int and 0 <= value <= THREADS


def seconds(time: Any) -> int:
    """A time limit, written days:hours:minutes:seconds, in seconds."""
    parts = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d):(\d\d)", str(time))
    total = sum(int(n) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True)) if parts else 0
    if total == 0:
        raise UserError(f"trainer.max_time={time}: write days:hours:minutes:seconds, as 00:01:30:00")
    return total


def check_values(cfg: DictConfig, key: str, good: Any, wanted: str) -> None:
    value = OmegaConf.select(cfg, key)
    if value is None and (key in OPTIONAL or OmegaConf.select(cfg, key, default="absent") == "absent"):
        return
    values = list(value) if OmegaConf.is_list(value) else [value]
    if not values or not all(good(v) for v in values):
        raise UserError(f"{key}={value}: give {wanted}")


def check_combination(cfg: DictConfig) -> None:
    sine, method, backbone = cfg.data.name == "sine", cfg.method, cfg.backbone
    if sine and backbone.layer == "conv":
        raise UserError(f"backbone={backbone.name} is for images and data=sine has none: choose backbone=mlp")
    if cfg.trainer.val_every > cfg.trainer.updates:
        raise UserError(f"trainer.val_every={cfg.trainer.val_every} is more than trainer.updates={cfg.trainer.updates}")
    if cfg.data.get("ways") == 1:
        raise UserError("data.ways=1: with one class there is nothing to tell apart, give 2 or more")
    if backbone.layer == "conv" and cfg.data.size >> len(backbone.widths) < 1:
        raise UserError(
            f"backbone={backbone.name} halves an image {len(backbone.widths)} times: data.size is too small"
        )
    if cfg.trainer.similarity != "none" and (method.name != "oplstm" or sine):
        raise UserError(f"trainer.similarity={cfg.trainer.similarity} is for method=oplstm on images")
    if cfg.trainer.similarity != "none" and cfg.logger.name == "none":
        raise UserError(f"trainer.similarity={cfg.trainer.similarity} is drawn from a log: choose logger=csv or wandb")
    if method.name == "oplstm" and method.cells[-1] != 1:
        raise UserError(f"method.cells={list(method.cells)}: the last cell has 1 unit, it works on one coordinate")
    if method.name == "oplstm" and method.preactivation and (backbone.layer == "conv" or backbone.bn == "none"):
        raise UserError("method.preactivation=true needs linear layers with batch norm: choose backbone=fc")
    if method.name == "warpmaml" and len(backbone.widths) < 2:
        raise UserError(
            f"backbone.widths={list(backbone.widths)}: Warp-MAML's warps lie between blocks, give 2 or more"
        )
    if method.name == "lstm" and backbone.name == ("fc" if sine else "mlp"):
        raise UserError(f"method=lstm reads its inputs raw, backbone={backbone.name} would not be used: leave it out")
    if method.name == "lstm" and method.support == "set" and method.inputs != "target":
        raise UserError(f"method.inputs={method.inputs} needs an order of the examples: choose method.support=sequence")
    if method.name == "lstm" and method.support == "sequence" and not method.first_labels:
        raise UserError("method.first_labels=false is for method.support=set: a sequence is always shown its labels")
    if method.name == "lstm" and method.support == "set" and method.query_cell and not method.pool_cell:
        raise UserError("method.query_cell=true needs method.pool_cell=true: the queries start from one pooled cell")


def nearest(name: str, choices: list[str]) -> str:
    """`one of …` the choices, and which of them is nearest to `name`."""
    close = get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"one of {', '.join(choices)}" + (f"; did you mean {close[0]}?" if close else "")
