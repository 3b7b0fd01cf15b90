"""Every setting of the two programs, by its dotted name, and their help.

A learner's options are declared in its own file, the network's in `backbones/`, the tasks' in `data/`; here are
those of a run and of an evaluation, and where the others come from.
"""

import re
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, Field

from fewshot import backbones, methods
from fewshot.backbones import body_options
from fewshot.config.compose import conf_folders
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.image_source import ImageSource
from fewshot.data.images import open_or_prepare
from fewshot.data.sine import SineSource
from fewshot.errors import UserError
from fewshot.methods import learner_class
from fewshot.options import (
    Few,
    Many,
    Positive,
    Seed,
    Sign,
    Text,
    Units,
    Ways,
    as_told,
    help_of,
    is_plain,
    options,
    words,
)

SHARED = ("omniglot", "mini", "cub", "cub50", "glyphs")  # images that others can be tested on by name
OF_DATA = ("train_shots", "train_queries", "val_queries", "test_queries")
OF_TRAINER = ("max_steps", "num_val_tasks", "num_test_tasks", "eval_batch_size")


def seconds(time: str) -> int:
    """A time limit, written days:hours:minutes:seconds, in seconds; ValueError for another text, and for none."""
    parts = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d):(\d\d)", time)
    total = (
        sum(int(n) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True))
        if parts
        else 0
    )
    if total == 0:
        raise ValueError(time)
    return total


def is_time(time: str) -> str:
    seconds(time)
    return time


Time = Annotated[
    str, AfterValidator(is_time), Field(description="days:hours:minutes:seconds, as 00:01:30:00")
]
Threads = Annotated[
    int, Field(ge=0, le=1024), "CPU threads; 0: torch's choice"
]  # torch dies of some thousands
Accelerator = Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], "where it is computed"]
Bar = Annotated[bool, "a progress bar"]
Predictions = Annotated[bool, "keep each test query's prediction, as a table, and draw a confusion matrix"]


class Run:
    """What train.py is told beside its groups."""

    seed: Annotated[Seed, "of the tasks and of the first weights"]
    shots: Annotated[Few, "support examples a class, on sine a wave; any number"]
    variant: Annotated[Literal["released", "paper"], "what made the paper's tables, or the paper's equations"]
    overwrite: Annotated[bool, "run anew although the run is finished"]
    predictions: Predictions
    study: Annotated[Text | None, "the table, figure or search that the run is a cell of"]


class Search:
    """What a trial of a random search is told (`draws.py`)."""

    trial: Annotated[int, Field(ge=0, le=10**6), "number of the trial"]
    search_seed: Annotated[Seed, "of all trials"]


class Trainer:
    micro_batch_size: Annotated[
        Units | None, "tasks at a time in an update: memory, not the scores; null: all"
    ]
    compile: Annotated[
        Literal["auto"] | bool, "train by compiled code, or as a GPU recorded it; auto: where it pays"
    ]
    val_check_interval: Annotated[Many, "updates between validations"]
    save_every_n_steps: Annotated[Many, "updates between saves of the last state"]
    log_every_n_steps: Annotated[Many, "updates between logged losses"]
    precision: Annotated[
        Literal["32-true", "tf32", "bf16-mixed", "16-mixed"], "tf32: 19 bits in a GPU's products"
    ]
    accelerator: Accelerator
    devices: Annotated[Few, "a process each, which share the tasks: speed, not the scores"]
    num_threads: Threads
    max_time: Annotated[Time, "over all sittings of a run"]
    enable_progress_bar: Bar
    similarity: Annotated[
        Literal["none", "paper", "released"], "OP-LSTM's updates beside others', by variant (Figure 6)"
    ]


class Lightning:
    """Options of Lightning's Trainer that a run may be given; what is not here, a run sets itself."""

    gradient_clip_val: Annotated[Positive, "bound on the meta-gradient"]
    gradient_clip_algorithm: Annotated[Literal["norm", "value"], "of its norm, or of each element"]
    deterministic: Annotated[bool, "refuse operations that are not"]
    benchmark: Annotated[bool, "let cuDNN look for the fastest algorithms"]
    profiler: Annotated[Literal["simple", "advanced", "pytorch"], "print where the time went"]
    detect_anomaly: Annotated[bool, "find the operation that made a NaN"]
    enable_model_summary: Annotated[bool, "print the modules"]
    fast_dev_run: Annotated[bool, "one update and one batch of each test, to see whether it runs"]


class Wandb:
    project: Annotated[Text, "W&B project; WANDB_PROJECT"]
    entity: Annotated[Text | None, "user or team; null: your own; WANDB_ENTITY"]
    group: Annotated[Text | None, "null: data, shots and variant; WANDB_RUN_GROUP"]
    tags: Annotated[list[Text], "further tags; also WANDB_TAGS"]
    pictures: Annotated[bool, "also log test images of data that is not ours to publish"]
    checkpoint: Annotated[bool, "also upload best.ckpt of a finished run, as an artifact of type model"]


class Paths:
    raw: Annotated[Text, "archives and folders as they were downloaded"]
    prepared: Annotated[Text, "image tables made from them"]


class Evaluation:
    """What evaluate.py is told."""

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
    enable_progress_bar: Bar
    pictures: Annotated[bool, "draw test tasks; on sine every pass; OP-LSTM's weights"]
    predictions: Predictions


def group(name: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": kind for key, kind in declared.items()}


def of_evaluation() -> dict[str, Any]:
    return options(Evaluation) | group("paths", options(Paths))


def of_training(method: str, data: str, logger: str, body: str) -> dict[str, Any]:
    """Dotted name → annotation of the settings of a run of this method on these data, on this kind of backbone.

    Raises:
        UserError: there is no such method or backbone, or one of its options is not declared.
    """
    of_method = options(learner_class(method))
    if vague := [name for name, kind in of_method.items() if not is_plain(kind)]:
        raise UserError(
            f"{learner_class(method).__name__} does not say what its option {vague[0]} may be: annotate it, "
            f'as {vague[0]}: Annotated[Few, "what it is"]'
        )
    tasks, image, images = options(EpisodicDataModule), options(open_or_prepare), options(ImageSource)
    of_data = {key: tasks[key] for key in OF_DATA}
    if data == "sine":
        of_data |= {"sign": options(SineSource)["sign"]}
        of_data |= group(
            "sign_of", dict.fromkeys(("released", "paper"), Annotated[Sign, "sign in this variant"])
        )
    else:
        of_data |= {"size": image["size"], "channels": image["channels"]}
        of_data |= {"ways": images["ways"], "train_ways": images["train_ways"]}
        of_data |= {"test": Annotated[list[Text], "further data sets, as [cub,mini], or folders to test on"]}
        of_variant = Annotated[Few, "test_queries in this variant"]
        of_data |= group("test_queries_of", dict.fromkeys(("released", "paper"), of_variant))
    if data == "folder":
        of_data["path"] = Annotated[Text, "class folders of images"]
    return {
        **options(Run),
        **group("method", named("method") | of_method | {"meta_batch_size": tasks["meta_batch_size"]}),
        **group("data", named("data") | of_data),
        **group("backbone", named("backbone") | body_options(body)),
        **group("trainer", {key: tasks[key] for key in OF_TRAINER} | options(Trainer)),
        **group("trainer.lightning", options(Lightning)),
        **group("logger", named("logger") | (options(Wandb) if logger == "wandb" else {})),
        **group("paths", options(Paths) | {"outputs": Annotated[Text, "run folders"]}),
    }


def named(group: str) -> dict[str, Any]:
    return {"name": Literal[*choices_of(group)]}


def declared(cfg: DictConfig, program: str) -> dict[str, Any]:
    """The declarations that a composed configuration falls under; UserError where it names no method."""
    if program == "evaluate":
        return of_evaluation()
    keys = ("method.name", "data.name", "logger.name", "backbone.body")
    of_run = of_training(*(str(OmegaConf.select(cfg, key, default="blocks")) for key in keys))
    return of_run | (options(Search) if "trial" in cfg else {})


def learner_options(cfg: DictConfig) -> dict[str, Any]:
    """What `cfg` tells the constructor of its learner, beside the task."""
    told: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    del told["method"]["name"], told["method"]["meta_batch_size"], told["backbone"]["name"]
    return told["method"] | {"backbone": told["backbone"]}


def known(program: str) -> list[str]:
    """The names of the settings that some method, data set and logger have."""
    if program == "evaluate":
        return list(of_evaluation())
    kinds = product(methods.NAMES, ("sine", "folder"), ("wandb",), backbones.NAMES)
    of_all = [of_training(*kind) for kind in kinds]
    return sorted({name for settings in (*of_all, options(Search)) for name in settings})


def choices_of(group: str) -> list[str]:
    """What `group=` may be."""
    return sorted({path.stem for folder in conf_folders() for path in (folder / group).glob("*.yaml")})


def settings_help(program: str, *, _root_: DictConfig) -> str:
    """A line a setting: its value, what it does, and what it may be."""
    lines = []
    kinds = declared(_root_, program)
    for name, kind in kinds.items():
        if not name.endswith(".name"):
            about = " ".join(filter(None, (help_of(kind), f"({words(kind)})")))
            lines.append(f"{f'  {name}={shown(_root_, name)}':<38} {about}".replace("$", "$$"))
    return "\n".join(lines)


def shown(cfg: DictConfig, name: str) -> str:
    """A setting's value as the command line takes it."""
    try:
        value = OmegaConf.select(cfg, name, throw_on_missing=True)
    except OmegaConfBaseException:  # missing, or following from one that is
        return "???"
    return as_told(list(value) if OmegaConf.is_list(value) else value)


def choices_help() -> str:
    groups = ("method", "data", "backbone", "logger", "experiment", "search", "profile")
    return "\n".join(f"  {group:<11}{' | '.join(choices_of(group))}" for group in groups)


OmegaConf.register_new_resolver("settings_help", settings_help, replace=True)
OmegaConf.register_new_resolver("choices_help", choices_help, replace=True)
