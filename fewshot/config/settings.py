"""The settings of a run and of an evaluation: what each may be, and the lines of --help.

Those of a learner, a backbone, a source of data and the data module are the annotated parameters of their
constructors; the others are declared here.
"""

from inspect import signature
from typing import Annotated, Any, Literal

import lightning as L
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError, create_model

from fewshot.config.compose import flatten, is_regression, plain, unset
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.images import open_or_prepare
from fewshot.errors import UserError
from fewshot.options import STRICT, Few, Many, Seed, Text, Units, Ways, first_error, help_of, settings_of

Folder = Annotated[str, Field(pattern="^[^~]")]  # only a shell expands ~
Settings = dict[str, Any]  # name → annotation
EPISODES, TABLE = settings_of(EpisodicDataModule), settings_of(open_or_prepare)
SHARED: Settings = {  # of a run and of an evaluation
    "predictions": Annotated[bool, "keep the prediction of each test query, and draw a confusion matrix"],
    "paths.raw": Annotated[Folder, "archives and folders as they were downloaded"],
    "paths.prepared": Annotated[Folder, "image tables made from them"],
}
MACHINE: Settings = {
    "accelerator": Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], "where it is computed"],
    "num_threads": Annotated[int | None, Field(ge=0, le=1024), "CPU threads; 0: torch's; null: as trained"],
    "enable_progress_bar": Annotated[bool, "show a progress bar"],
}
RUN: Settings = {
    **SHARED,
    "seed": Annotated[Seed, "of the tasks and of the initial weights"],
    "shots": EPISODES["shots"],
    "variant": Annotated[Literal["released", "paper"], "code behind the tables, or the paper's equations"],
    "overwrite": Annotated[bool, "train from scratch although the run is finished"],
    "study": Annotated[Text | None, "the table, figure or search that the run is part of"],
    "trial": Annotated[int, Field(ge=0, le=10**6), "number of the trial of a random search"],
    "search_seed": Annotated[Seed, "of all trials of a random search"],
    "paths.outputs": Annotated[Folder, "run folders"],
    "logger.name": Literal["csv", "none", "tensorboard", "wandb"],
    "logger.project": Annotated[Text, "W&B project; WANDB_PROJECT"],
    "logger.entity": Annotated[Text | None, "user or team; null: your own; WANDB_ENTITY"],
    "logger.group": Annotated[Text | None, "null: data, shots and variant; WANDB_RUN_GROUP"],
    "logger.tags": Annotated[list[Text], "further tags"],
    "logger.pictures": Annotated[bool, "also log test images of data that is not ours to publish"],
    "logger.checkpoint": Annotated[bool, "also upload best.ckpt of a finished run, as an artifact"],
}
TRAINER: Settings = {
    **dict.fromkeys(signature(L.Trainer).parameters, Any),  # Lightning checks these
    **MACHINE,
    **{name: EPISODES[name] for name in ("max_steps", "num_val_tasks", "num_test_tasks", "eval_batch_size")},
    "val_check_interval": Annotated[Many, "updates between validations"],
    "micro_batch_size": Annotated[Units | None, "tasks at a time in an update: memory, not the scores"],
    "compile": Annotated[Literal["auto"] | bool, "compiled code or CUDA graphs; auto: where they pay"],
    "save_every_n_steps": Annotated[Many, "updates between saves of the last state"],
    "log_every_n_steps": Annotated[Many, "updates between logged losses"],
    "precision": Annotated[Literal["32-true", "tf32", "bf16-mixed"], "tf32: 19 bits in a GPU's products"],
    "devices": Annotated[Few, "processes, a device each, that share the tasks: speed, not the scores"],
    "max_time": Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$"), "days:hours:minutes:seconds, in all"],
    "similarity": Annotated[Literal["none", "paper", "released"], "compare OP-LSTM's updates (Figure 6)"],
}
DATA: Settings = {
    **{name: EPISODES[name] for name in ("train_shots", "train_queries", "val_queries", "test_queries")},
    **{name: TABLE[name] for name in ("size", "channels")},
    "path": Annotated[Text, "class folders of images, or a file of arrays"],
    "regression": Annotated[bool, "whether the arrays are of regression tasks"],
    "test": Annotated[
        list[Text], "further data to test on: data sets, as [cub,mini], folders, files of arrays"
    ],
}
EVALUATION: Settings = {
    **SHARED,
    **MACHINE,
    "run": Annotated[Text, "the run's folder; train.py prints it"],
    "data": Annotated[Text | None, "another data set; null: the run's own"],
    "path": Annotated[Text | None, "the folder of data=folder, or the file of data=arrays"],
    "shots": Annotated[Few | None, "null: as trained"],
    "queries": Annotated[Few | None, "test queries a class; null: the run's own; on other data 15"],
    "ways": Annotated[Ways | None, "classes of a task; null: as trained; a linear head has no other"],
    "tasks": Annotated[Many | None, "test tasks; null: the run's own"],
    "bn": Annotated[Literal["support"] | None, "by what queries are normalised; null: as trained"],
    "eval_batch_size": Annotated[Units | None, "tasks at a time; null: the run's own"],
    "pictures": Annotated[bool, "draw test tasks, and OP-LSTM's weights"],
}


def declarations(cfg: DictConfig) -> Settings:
    """The settings of a configuration of train.py, or of evaluate.py, by `group.name`."""
    if "method" not in cfg:
        return EVALUATION
    declared, method = RUN.copy(), {"meta_batch_size": EPISODES["meta_batch_size"]}
    backbone = {"frozen": Annotated[bool, "not trained: learners see its features, which are computed once"]}
    for group, settings in {"trainer": TRAINER, "data": DATA, "method": method, "backbone": backbone}.items():
        if "_target_" in cfg[group]:
            settings = settings | settings_of(get_class(cfg[group]._target_)) | {"name": str, "_target_": str}
        declared |= {f"{group}.{name}": kind for name, kind in settings.items()}
    return declared


def check_values(cfg: DictConfig) -> None:
    """UserError for the first setting that is unknown, or is not what its annotation allows."""
    fields: Settings = {name: (kind, None) for name, kind in declarations(cfg).items()}
    try:
        create_model("Settings", __config__=STRICT, **fields).model_validate(flatten(plain(cfg)))
    except ValidationError as error:
        raise UserError(first_error(error)) from None


def check(cfg: DictConfig) -> None:
    """UserError for settings of a run that are missing, unknown, wrong, or do not fit together."""
    learner: Any = get_class(cfg.method._target_)
    trainer, method = cfg.trainer, cfg.method
    if is_regression(cfg) and not learner.regression:
        raise UserError(f"method={method.name} classifies, and data={cfg.data.name} is regression")
    if missing := unset(cfg) or (cfg.variant in ("released", "paper") and unset(cfg, resolve=True)):
        what = f"method={method.name} data={cfg.data.name} shots={cfg.shots}"
        raise UserError(f"{what} has no default for {', '.join(missing)}: set a value for each")
    check_values(cfg)
    if cfg.data.name == "arrays" and cfg.backbone._target_.endswith(".LibraryBody"):
        raise UserError(f"backbone={cfg.backbone.name} is for images, not for arrays: choose data=folder")
    if trainer.val_check_interval > trainer.max_steps:
        raise UserError("trainer.val_check_interval is more than trainer.max_steps")
    in_parts = trainer.micro_batch_size or trainer.devices > 1
    if method.get("grad_clip_each") and method.grad_clip and in_parts:
        raise UserError("method.grad_clip_each=true allows no trainer.micro_batch_size and one device only")
    if method.meta_batch_size % trainer.devices:
        raise UserError("method.meta_batch_size cannot be shared equally by trainer.devices")
    on_images = method.name == "oplstm" and not is_regression(cfg)
    if trainer.similarity != "none" and (not on_images or trainer.devices > 1):
        raise UserError("trainer.similarity is for method=oplstm on images, on one device")


def settings_help(*, _root_: DictConfig) -> str:
    """A line a setting: its value, what it does, and its choices."""
    lines, declared = [], declarations(_root_)
    for name in flatten(OmegaConf.to_container(_root_)):
        if name in declared and not name.endswith((".name", "._target_")):
            try:
                value = OmegaConf.select(_root_, name, throw_on_missing=True)
            except OmegaConfBaseException:  # missing, or following from one that is
                value = "???"
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            lines.append(f"{f'  {name}={shown}':<38} {help_of(declared[name])}".replace("$", "$$"))
    return "\n".join(lines)


OmegaConf.register_new_resolver("settings_help", settings_help, replace=True)
