"""The settings of a run and of an evaluation that no constructor declares, and the help of all settings."""

import re
from typing import Annotated, Any, Literal

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, Field

from fewshot.config.compose import choices_of
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.images import open_or_prepare
from fewshot.options import STRICT, Few, Many, Positive, Seed, Text, Units, Ways, help_of, settings_of


def seconds(time: str) -> int:
    """A time limit, written days:hours:minutes:seconds, in seconds; ValueError for another text, and for
    none."""
    parts = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d):(\d\d)", time)
    if parts is None or not int("".join(parts.groups())):
        raise ValueError("Input should be days:hours:minutes:seconds, as 00:01:30:00")
    days, hours, minutes, rest = map(int, parts.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def check_time(time: str) -> str:
    seconds(time)
    return time


Accelerator = Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], "where it is computed"]
Threads = Annotated[int, Field(ge=0, le=1024), "CPU threads; 0: torch's choice"]
ProgressBar = Annotated[bool, "show a progress bar"]
Predictions = Annotated[bool, "keep each test query's prediction, as a table, and draw a confusion matrix"]


class Settings(BaseModel):
    model_config = STRICT


class Run(Settings):
    seed: Annotated[Seed, "of the tasks and of the initial weights"]
    shots: Annotated[Few, "support examples a class, on sine a wave; any number"]
    variant: Annotated[Literal["released", "paper"], "what made the paper's tables, or the paper's equations"]
    overwrite: Annotated[bool, "train from scratch although the run is finished"]
    predictions: Predictions
    study: Annotated[Text | None, "the table, figure or search that the run is part of"]
    trial: Annotated[int, Field(ge=0, le=10**6), "number of the trial of a random search"] = 0
    search_seed: Annotated[Seed, "of all trials of a random search"] = 0


class Trainer(Settings):
    max_steps: Annotated[Many, "updates"]
    val_check_interval: Annotated[Many, "updates between validations"]
    num_val_tasks: Annotated[Many, "tasks of a validation"]
    num_test_tasks: Annotated[Many, "tasks of the test"]
    eval_batch_size: Annotated[
        Units, "tasks at a time in validation and test: speed and memory, not the scores"
    ]
    micro_batch_size: Annotated[
        Units | None, "tasks at a time in an update: memory, not the scores; null: all"
    ]
    compile: Annotated[
        Literal["auto"] | bool, "train by compiled code, or by CUDA graphs; auto: where it pays"
    ]
    save_every_n_steps: Annotated[Many, "updates between saves of the last state"]
    log_every_n_steps: Annotated[Many, "updates between logged losses"]
    precision: Annotated[
        Literal["32-true", "tf32", "bf16-mixed", "16-mixed"], "tf32: 19 bits in a GPU's products"
    ]
    accelerator: Accelerator
    devices: Annotated[Few, "processes, a device each, that share the tasks: speed, not the scores"]
    num_threads: Threads
    max_time: Annotated[
        str, AfterValidator(check_time), "days:hours:minutes:seconds, over all restarts of a run"
    ]
    enable_progress_bar: ProgressBar
    similarity: Annotated[
        Literal["none", "paper", "released"], "compare OP-LSTM's updates with others (Figure 6)"
    ]
    gradient_clip_val: Annotated[Positive | None, "bound on the meta-gradient"]
    gradient_clip_algorithm: Annotated[Literal["norm", "value"], "of its norm, or of each element"]
    deterministic: Annotated[bool, "only deterministic operations"]
    benchmark: Annotated[bool | None, "let cuDNN look for the fastest algorithms"]
    profiler: Annotated[Literal["simple", "advanced", "pytorch"] | None, "print where the time went"]
    detect_anomaly: Annotated[bool, "find the operation that made a NaN"]
    enable_model_summary: Annotated[bool, "print the modules"]
    fast_dev_run: Annotated[bool, "one update and one batch of each test, to see whether it runs"]


class Wandb(Settings):
    project: Annotated[Text, "W&B project; WANDB_PROJECT"]
    entity: Annotated[Text | None, "user or team; null: your own; WANDB_ENTITY"]
    group: Annotated[Text | None, "null: data, shots and variant; WANDB_RUN_GROUP"]
    tags: Annotated[list[Text], "further tags; also WANDB_TAGS"]
    pictures: Annotated[bool, "also log test images of data that is not ours to publish"]
    checkpoint: Annotated[bool, "also upload best.ckpt of a finished run, as an artifact of type model"]


class Paths(Settings):
    raw: Annotated[Text, "archives and folders as they were downloaded"]
    prepared: Annotated[Text, "image tables made from them"]


class OutputPaths(Paths):
    outputs: Annotated[Text, "run folders"]


class Evaluation(Settings):
    run: Annotated[Text, "the run's folder; train.py prints it"]
    data: Annotated[Text | None, "another data set; null: the run's own"]
    path: Annotated[Text | None, "the folder of data=folder"]
    shots: Annotated[Few | None, "null: as trained"]
    queries: Annotated[Few | None, "test queries a class; null: the run's own; on other data 15"]
    ways: Annotated[Ways | None, "classes of a task; null: as trained; a linear head has no other"]
    tasks: Annotated[Many | None, "test tasks; null: the run's own"]
    bn: Annotated[Literal["support"] | None, "whose statistics normalise the queries; null: as trained"]
    eval_batch_size: Annotated[Units | None, "tasks at a time"]
    accelerator: Accelerator
    num_threads: Threads
    enable_progress_bar: ProgressBar
    pictures: Annotated[bool, "draw test tasks; on sine every pass; OP-LSTM's weights"]
    predictions: Predictions


TEST = Annotated[list[Text], "further data sets to test on, as [cub,mini], or folders"]
PATH = Annotated[Text, "class folders of images"]


def declarations(cfg: DictConfig, program: str) -> dict[str, Any]:
    """Dotted name → annotation of the settings of a composed configuration."""
    if program == "evaluate":
        return settings_of(Evaluation) | {f"paths.{name}": kind for name, kind in settings_of(Paths).items()}
    source, learner, body = (get_class(cfg[group]._target_) for group in ("data", "method", "backbone"))
    episodes = settings_of(EpisodicDataModule)
    groups = {
        "method": settings_of(learner) | episodes,
        "data": settings_of(source) | settings_of(open_or_prepare) | episodes | {"test": TEST, "path": PATH},
        "backbone": settings_of(body),
        "trainer": settings_of(Trainer),
        "logger": settings_of(Wandb),
        "paths": settings_of(OutputPaths),
    }
    found = {name: kind for name, kind in settings_of(Run).items() if name in cfg}
    for group, declared in groups.items():
        found |= {
            f"{group}.{name}": declared.get(name, Any)
            for name in cfg[group]
            if name not in ("name", "_target_")
        }
    return found


def settings_help(program: str, *, _root_: DictConfig) -> str:
    """A line a setting: its value, what it does, and its choices."""
    lines = []
    for name, annotation in declarations(_root_, program).items():
        try:
            value = OmegaConf.select(_root_, name, throw_on_missing=True)
        except OmegaConfBaseException:  # missing, or following from one that is
            value = "???"
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        lines.append(f"{f'  {name}={shown}':<38} {help_of(annotation)}".replace("$", "$$"))
    return "\n".join(lines)


def choices_help() -> str:
    groups = ("method", "data", "backbone", "logger", "experiment", "search", "profile")
    return "\n".join(f"  {group:<11}{' | '.join(choices_of(group))}" for group in groups)


OmegaConf.register_new_resolver("settings_help", settings_help, replace=True)
OmegaConf.register_new_resolver("choices_help", choices_help, replace=True)
