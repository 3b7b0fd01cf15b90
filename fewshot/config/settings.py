"""The settings of a run and of an evaluation that no constructor declares, their checks, and help lines."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import lightning as L
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field

from fewshot.config.compose import flatten, plain, unset
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.images import open_or_prepare
from fewshot.errors import UserError
from fewshot.options import STRICT, Few, Many, Seed, Text, Units, Ways, check_settings, help_of, settings_of

Time = Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$")]
Accelerator = Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], "where it is computed"]
Threads = Annotated[int, Field(ge=0, le=1024), "CPU threads; 0: torch's choice"]
ProgressBar = Annotated[bool, "show a progress bar"]
Predictions = Annotated[bool, "keep each test query's prediction, as a table, and draw a confusion matrix"]


def seconds(time: str) -> int:
    """A time limit, written days:hours:minutes:seconds, in seconds."""
    days, hours, minutes, rest = map(int, time.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


class Settings(BaseModel):
    model_config = STRICT


class Paths(Settings):
    raw: Annotated[Text, "archives and folders as they were downloaded"]
    prepared: Annotated[Text, "image tables made from them"]
    outputs: Annotated[Text, "run folders"] = ""


class Trainer(Settings, extra="allow"):  # the others are Lightning's own, which checks them
    max_steps: Annotated[Many, "updates"]
    val_check_interval: Annotated[Many, "updates between validations"]
    num_val_tasks: Annotated[Many, "tasks of a validation"]
    num_test_tasks: Annotated[Many, "tasks of the test"]
    eval_batch_size: Annotated[Units, "tasks at a time in validation and test: memory, not the scores"]
    micro_batch_size: Annotated[Units | None, "tasks at a time in an update: memory, not the scores"]
    compile: Annotated[Literal["auto"] | bool, "train by compiled code or CUDA graphs; auto: where it pays"]
    save_every_n_steps: Annotated[Many, "updates between saves of the last state"]
    log_every_n_steps: Annotated[Many, "updates between logged losses"]
    precision: Annotated[Literal["32-true", "tf32", "bf16-mixed"], "tf32: 19 bits in a GPU's products"]
    accelerator: Accelerator
    devices: Annotated[Few, "processes, a device each, that share the tasks: speed, not the scores"]
    num_threads: Threads
    max_time: Annotated[Time, "days:hours:minutes:seconds, over all restarts of a run"]
    enable_progress_bar: ProgressBar
    similarity: Annotated[Literal["none", "paper", "released"], "compare OP-LSTM's updates (Figure 6)"]


class Method(Settings, extra="allow"):  # the others are checked by its constructor
    meta_batch_size: Annotated[Units, "tasks of an update"]


class Logger(Settings):
    name: Literal["csv", "none", "tensorboard", "wandb"]
    project: Annotated[Text, "W&B project; WANDB_PROJECT"] = ""
    entity: Annotated[Text | None, "user or team; null: your own; WANDB_ENTITY"] = None
    group: Annotated[Text | None, "null: data, shots and variant; WANDB_RUN_GROUP"] = None
    tags: Annotated[list[Text], "further tags"] = []
    pictures: Annotated[bool, "also log test images of data that is not ours to publish"] = False
    checkpoint: Annotated[bool, "also upload best.ckpt of a finished run, as an artifact"] = False


class Run(Settings):
    seed: Annotated[Seed, "of the tasks and of the initial weights"]
    shots: Annotated[Few, "support examples a class, on sine a wave; any number"]
    variant: Annotated[Literal["released", "paper"], "what made the paper's tables, or the paper's equations"]
    overwrite: Annotated[bool, "train from scratch although the run is finished"]
    predictions: Predictions
    study: Annotated[Text | None, "the table, figure or search that the run is part of"]
    trial: Annotated[int, Field(ge=0, le=10**6), "number of the trial of a random search"] = 0
    search_seed: Annotated[Seed, "of all trials of a random search"] = 0
    method: Method
    data: dict[str, Any]
    backbone: dict[str, Any]
    trainer: Trainer
    logger: Logger
    paths: Paths


class Evaluation(Settings):
    run: Annotated[Text, "the run's folder; train.py prints it"]
    data: Annotated[Text | None, "another data set; null: the run's own"]
    path: Annotated[Text | None, "the folder of data=folder"]
    shots: Annotated[Few | None, "null: as trained"]
    queries: Annotated[Few | None, "test queries a class; null: the run's own; on other data 15"]
    ways: Annotated[Ways | None, "classes of a task; null: as trained; a linear head has no other"]
    tasks: Annotated[Many | None, "test tasks; null: the run's own"]
    bn: Annotated[Literal["support"] | None, "whose statistics normalise the queries; null: as trained"]
    eval_batch_size: Annotated[Units | None, "tasks at a time; null: the run's own"]
    accelerator: Accelerator
    num_threads: Threads
    enable_progress_bar: ProgressBar
    pictures: Annotated[bool, "draw test tasks, and OP-LSTM's weights"]
    predictions: Predictions
    paths: Paths


def check(cfg: DictConfig) -> None:
    """UserError for settings that are missing, unknown, wrong, or do not fit together."""
    learner: Any = get_class(cfg.method._target_)
    if cfg.data.name == "sine" and not learner.regression:
        raise UserError(f"method={cfg.method.name} classifies, and data=sine is regression")
    known = declarations(cfg) | prefixed("trainer", L.Trainer) | dict.fromkeys(("data.name", "data._target_"))
    given = [f"{group}.{name}" for group in ("data", "trainer") for name in cfg[group]]
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"unknown setting {unknown[0]}: --help lists all")
    if missing := unset(OmegaConf.to_container(cfg)):
        what = f"method={cfg.method.name} data={cfg.data.name} shots={cfg.shots}"
        raise UserError(f"no published settings for {what}: set {' '.join(f'{name}=…' for name in missing)}")
    check_settings(Run, plain(cfg))
    trainer, method = cfg.trainer, cfg.method
    if trainer.val_check_interval > trainer.max_steps:
        raise UserError("trainer.val_check_interval is more than trainer.max_steps")
    in_parts = trainer.micro_batch_size or trainer.devices > 1
    if method.get("grad_clip_each") and method.grad_clip and in_parts:
        raise UserError("method.grad_clip_each=true allows no trainer.micro_batch_size and one device only")
    if method.meta_batch_size % trainer.devices:
        raise UserError("method.meta_batch_size cannot be shared equally by trainer.devices")
    on_images = method.name == "oplstm" and cfg.data.name != "sine"
    if trainer.similarity != "none" and (not on_images or trainer.devices > 1):
        raise UserError("trainer.similarity is for method=oplstm on images, on one device")


def prefixed(group: str, *targets: Callable[..., Any]) -> dict[str, Any]:
    return {f"{group}.{name}": kind for target in targets for name, kind in settings_of(target).items()}


def declarations(cfg: DictConfig) -> dict[str, Any]:
    """Dotted name → annotation of the settings of a configuration of train.py, or of evaluate.py."""
    if "method" not in cfg:
        return settings_of(Evaluation) | prefixed("paths", Paths)
    source, learner, body = (get_class(cfg[group]._target_) for group in ("data", "method", "backbone"))
    declared = settings_of(Run) | prefixed("trainer", Trainer) | prefixed("logger", Logger)
    declared |= prefixed("paths", Paths) | prefixed("method", learner, Method) | prefixed("backbone", body)
    declared |= prefixed("data", source, open_or_prepare, EpisodicDataModule)
    declared["data.test"] = Annotated[list[Text], "further data sets to test on, as [cub,mini], or folders"]
    declared["data.path"] = Annotated[Text, "class folders of images"]
    return declared


def settings_help(*, _root_: DictConfig) -> str:
    """A line a setting: its value, what it does, and its choices."""
    lines, declared = [], declarations(_root_)
    for name in flatten(OmegaConf.to_container(_root_)):
        if name.startswith("hydra.") or name.endswith((".name", "._target_")):
            continue
        try:
            value = OmegaConf.select(_root_, name, throw_on_missing=True)
        except OmegaConfBaseException:  # missing, or following from one that is
            value = "???"
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        lines.append(f"{f'  {name}={shown}':<38} {help_of(declared.get(name))}".replace("$", "$$"))
    return "\n".join(lines)


OmegaConf.register_new_resolver("settings_help", settings_help, replace=True)
