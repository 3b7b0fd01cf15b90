"""What identifies a run: the settings that its score depends on, and what differs from the published ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import composed, flatten, plain, unset
from fewshot.data.folder import full_name
from fewshot.files import weights_file

# settings that do not change a score, left out of a run's identity
NOT_SCORE = ("logger", "paths", "overwrite", "predictions", "study", "trial", "search_seed")
NOT_SCORE_OF_TRAINER = (
    *("eval_batch_size", "micro_batch_size", "save_every_n_steps", "log_every_n_steps", "accelerator"),
    *("devices", "num_threads", "compile", "max_time", "enable_progress_bar", "similarity", "deterministic"),
    *("benchmark", "profiler", "detect_anomaly", "enable_model_summary"),
)
TEST_ONLY = ("data.test_queries", "trainer.num_test_tasks")


def identity(cfg: DictConfig, table: str | None = None) -> dict[str, Any]:
    """The settings that determine a run's score; `table` names a folder's data, as the folder may be gone."""
    settings = plain(cfg)
    data, backbone, trainer = settings["data"], settings["backbone"], settings["trainer"]
    for name in NOT_SCORE:
        settings.pop(name, None)
    for name in NOT_SCORE_OF_TRAINER:
        trainer.pop(name, None)
    data.pop("test", None)
    if data.get("train_ways") == data.get("ways"):
        data["train_ways"] = None
    if "path" in data:
        data["path"] = table or table_name(cfg)
    if backbone.get("weights"):
        backbone["weights"] = with_digest(Path(backbone["weights"]))
    return settings


def table_name(cfg: DictConfig) -> str:
    """The name of a run's data; of a folder one that says where it is and which state of it this is."""
    return full_name(cfg.data.name, Path(cfg.data.path) if "path" in cfg.data else None)


def with_digest(path: Path) -> str:
    """The name of a file of weights, or of a run's folder, with a hash of its content, if it is there."""
    if not (weights := weights_file(path)).is_file():
        return path.name
    return f"{path.name}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:10]}"


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
    unpublished = unset(published) or unset(published, resolve=True)
    for name in unpublished:
        OmegaConf.update(published, name, OmegaConf.select(cfg, name))
    return published, unpublished


def is_reduced(cfg: DictConfig) -> bool:
    """Whether a run has fewer tests, validation tasks, or both updates and training tasks than published."""
    published, _ = published_config(cfg)
    ours, theirs = cfg.trainer, published.trainer
    all_tasks = theirs.max_steps * published.method.meta_batch_size
    fewer_tasks = (ours.max_steps + 1) * cfg.method.meta_batch_size <= all_tasks
    shorter = ours.max_steps < theirs.max_steps and fewer_tasks
    fewer_tests = any(ours[name] < theirs[name] for name in ("num_val_tasks", "num_test_tasks"))
    return "path" not in cfg.data and (shorter or fewer_tests)


def config_diff(cfg: DictConfig, table: str | None = None) -> dict[str, Any]:
    """The training settings that differ from the published ones; `table` as in `identity`."""
    published, unpublished = published_config(cfg)
    ours, theirs = flatten(identity(cfg, table)), flatten(identity(published, table))
    same = {name for name in ours if name in theirs and ours[name] == theirs[name]} - {*unpublished}
    return {name: ours[name] for name in ours if name not in same and name not in TEST_ONLY}
