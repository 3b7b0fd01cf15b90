"""What identifies a run and its tests: the settings that a score depends on, and what is not as published."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import choices_of, composed, flatten, plain, unset
from fewshot.config.settings import MACHINE, check
from fewshot.data.folder import full_name
from fewshot.errors import UserError

# settings that do not change a score, left out of a run's identity
NOT_SCORE = ("logger", "paths", "overwrite", "predictions", "study", "trial", "search_seed")
NOT_SCORE_OF_TRAINER = (
    *("eval_batch_size", "micro_batch_size", "save_every_n_steps", "log_every_n_steps", "accelerator"),
    *("devices", "num_threads", "compile", "max_time", "enable_progress_bar", "similarity", "deterministic"),
    *("benchmark", "profiler", "detect_anomaly", "enable_model_summary"),
)
# settings that came later, and the value that all runs before had
LATER = (("backbone", "frozen", False), ("method", "layers", "last"), ("method", "unpooling", "winner"))
CLASSES = ("data", "method", "backbone")  # the groups that name one
CROSS_DOMAIN_QUERIES = 15
TEST_ONLY = ("data.test_queries", "trainer.num_test_tasks")


def identity(cfg: DictConfig, table: str | None = None) -> dict[str, Any]:
    """The settings that determine a run's score; `table` names a folder's data, as the folder may be gone.

    Pretrained weights are named by their file or run folder, with a hash of its content if it is there.
    """
    settings = {name: value for name, value in plain(cfg).items() if name not in NOT_SCORE}
    data, backbone, trainer = settings["data"], settings["backbone"], settings["trainer"]
    settings["trainer"] = {key: value for key, value in trainer.items() if key not in NOT_SCORE_OF_TRAINER}
    data.pop("test", None)
    if data.get("train_ways") == data.get("ways"):
        data["train_ways"] = None
    for group, name, before in LATER:
        if settings[group].get(name) == before:
            del settings[group][name]
    if "path" in data:
        data["path"] = table or table_name(cfg)
    if backbone.get("weights"):
        path = Path(backbone["weights"])
        weights = path / "best.ckpt" if path.is_dir() else path
        digest = f"-{hashlib.sha256(weights.read_bytes()).hexdigest()[:10]}" if weights.is_file() else ""
        backbone["weights"] = path.name + digest
    return settings


def table_name(cfg: DictConfig) -> str:
    """The name of a run's data; of a folder one that says where it is and which state of it this is."""
    return full_name(cfg.data.name, Path(cfg.data.path) if "path" in cfg.data else None)


def run_folder(cfg: DictConfig) -> Path:
    """`<outputs>/<data>/<method>/<shots>-shot/seed<seed>-<hash of the identity>`."""
    digest = hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:10]
    place = Path(cfg.paths.outputs, cfg.data.name, cfg.method.name, f"{cfg.shots}-shot")
    return place / f"seed{cfg.seed}-{digest}"


def run_name(cfg: DictConfig, folder: Path) -> str:
    """A run's name in W&B: sine-lstm-5-shot-seed0-…."""
    return f"{cfg.data.name}-{cfg.method.name}-{cfg.shots}-shot-{folder.resolve().name}"


def published_config(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """The published settings of a run's method, data, shots and variant.

    Also the names of those that have no published value: there the run's own stand in.
    """
    groups = {"data": cfg.data.name, "method": cfg.method.name, "shots": cfg.shots, "variant": cfg.variant}
    published = composed([f"{name}={value}" for name, value in groups.items()])
    published.seed = cfg.seed
    if "regression" in cfg.data:  # the file may be gone
        published.data.regression = cfg.data.regression
    unpublished = unset(published) or unset(published, resolve=True)
    for name in unpublished:
        OmegaConf.update(published, name, OmegaConf.select(cfg, name))
    return published, unpublished


def is_reduced(cfg: DictConfig) -> bool:
    """Whether a run has fewer tests, validation tasks, or both updates and training tasks than published."""
    published, _ = published_config(cfg)
    ours, theirs = cfg.trainer, published.trainer
    tasks = theirs.max_steps * published.method.meta_batch_size
    shorter = ours.max_steps < theirs.max_steps and (ours.max_steps + 1) * cfg.method.meta_batch_size <= tasks
    fewer_tests = any(ours[name] < theirs[name] for name in ("num_val_tasks", "num_test_tasks"))
    return "path" not in cfg.data and (shorter or fewer_tests)


def config_diff(cfg: DictConfig, table: str | None = None) -> dict[str, Any]:
    """The training settings that differ from the published ones; `table` as in `identity`."""
    published, unpublished = published_config(cfg)
    ours, theirs = flatten(identity(cfg, table)), flatten(identity(published, table))
    same = {name for name in ours if name in theirs and ours[name] == theirs[name]} - {*unpublished}
    return {name: value for name, value in ours.items() if name not in same and name not in TEST_ONLY}


def load_config(folder: Path) -> DictConfig:
    """The configuration of a run's folder, which is not trusted: data, not code.

    UserError where its classes are not those that the configuration here names.
    """
    path = folder / "config.yaml"
    if not (folder / "best.ckpt").is_file() or not path.is_file():
        raise UserError(f"{folder} holds no validated run: it needs config.yaml and best.ckpt")
    text = path.read_text(encoding="utf-8")
    if "${" in text:
        raise UserError(f"{path} is not a run's configuration: it has interpolations")
    cfg: Any = OmegaConf.create(text)
    OmegaConf.set_struct(cfg, True)
    known = composed([f"{group}={cfg[group].name}" for group in CLASSES])
    for group in CLASSES:
        if cfg[group]._target_ != known[group]._target_:
            raise UserError(f"{path}: {group}={cfg[group].name} is another class here")
    check(cfg)
    return cfg


def eval_config(cfg: DictConfig, trained: DictConfig) -> DictConfig:
    """The configuration of the test that `cfg` of evaluate.py asks for, of the run of `trained`."""
    name = cfg.data or (data_at(cfg.path) if cfg.path else trained.data.name)
    path = (cfg.path or trained.data.get("path")) if name in ("folder", "arrays") else None
    tested = trained.copy() if same_data(trained, name, path) else across(trained, name, path)
    changes = {f"trainer.{name}": cfg[name] for name in (*MACHINE, "eval_batch_size")}
    changes |= {"data.ways": cfg.ways, "data.test_queries": cfg.queries, "trainer.num_test_tasks": cfg.tasks}
    by_sets = trained.backbone.get("bn") in ("transductive", "support") and not trained.backbone.get("frozen")
    if cfg.bn and not by_sets:
        raise UserError(f"bn={cfg.bn}: the run's backbone does not normalise by sets")
    changes |= {"shots": cfg.shots, "backbone.bn": cfg.bn, "paths": cfg.paths, "predictions": cfg.predictions}
    for key, value in changes.items():
        if value is not None:
            OmegaConf.update(tested, key, value)
    return tested


def protocol(tested: DictConfig) -> dict[str, Any]:
    """The sizes of a test."""
    sizes = {"ways": tested.data.get("ways", 1), "tasks": tested.trainer.num_test_tasks}
    return sizes | {"shots": tested.shots, "test_queries": tested.data.test_queries}


def same_data(trained: DictConfig, name: str, path: str | None) -> bool:
    """Whether a test on data set `name` (folder `path`) is on what the run was trained on."""
    own = trained.data.get("path")
    return name == trained.data.name and Path(path or "").resolve() == Path(own or "").resolve()


def further_tests(cfg: DictConfig) -> list[DictConfig]:
    """The configurations of the tests on `data.test`: data sets by name, folders by path."""
    named, tests = choices_of("data"), cfg.data.get("test", [])
    return [across(cfg, name) if name in named else across(cfg, data_at(name), name) for name in tests]


def data_at(path: str) -> str:
    """The kind of a user's own data."""
    return "arrays" if path.endswith(".npz") else "folder"


def across(trained: DictConfig, name: str, path: str | None = None) -> DictConfig:
    """The configuration of a test on data set `name` (at `path`), in the sizes and ways of training."""
    if (name == "arrays") != (trained.data.name == "arrays") or "sine" in (name, trained.data.name):
        raise UserError(f"the run was trained on {trained.data.name}: data={name} has other inputs")
    if name == "arrays" and trained.backbone.get("frozen"):
        raise UserError("a frozen backbone on arrays is tested on the run's own arrays only")
    full_name(name, Path(path) if path else None)  # or an error
    changes = {key: trained.data[key] for key in ("size", "channels", "ways") if key in trained.data}
    changes["test_queries"] = CROSS_DOMAIN_QUERIES
    if path:
        changes["path"] = path
    tested = trained.copy()
    tested.data = OmegaConf.merge(composed([f"data={name}"]).data, changes)
    return tested
