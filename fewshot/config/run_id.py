"""What identifies a run: the settings that its score depends on, the folder named by them, and what differs
from the published settings."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import composed, flatten, plain
from fewshot.data.images import full_name
from fewshot.files import weights_file

# settings that do not change a score, left out of a run's identity
NOT_SCORE = ("logger", "paths", "overwrite", "predictions", "study", "trial", "search_seed")
NOT_SCORE_TRAINER = (
    *(
        "eval_batch_size",
        "micro_batch_size",
        "save_every_n_steps",
        "log_every_n_steps",
        "accelerator",
        "devices",
    ),
    *(
        "num_threads",
        "compile",
        "max_time",
        "enable_progress_bar",
        "similarity",
        "deterministic",
        "benchmark",
    ),
    *("profiler", "detect_anomaly", "enable_model_summary"),
)
TEST_ONLY = ("data.test_queries", "trainer.num_test_tasks")
PAPER_TEST_TASKS = {"sine": 2000}  # 600 on images


def identity(cfg: DictConfig, table: str | None = None) -> dict[str, Any]:
    """The settings that determine a run's score; `table` names a folder's data, as the folder may be gone."""
    settings = plain(cfg)
    for name in NOT_SCORE:
        settings.pop(name, None)
    for name in NOT_SCORE_TRAINER:
        del settings["trainer"][name]
    data = settings["data"]
    data.pop("test", None)
    if data.get("train_ways") == data.get("ways"):
        data["train_ways"] = None
    if "path" in data:
        data["path"] = table or table_name(cfg)
    if weights := settings["backbone"].get("weights"):
        settings["backbone"]["weights"] = with_digest(Path(weights))
    return settings


def table_name(cfg: DictConfig) -> str:
    """The name of a run's data; of a folder one that says where it is and which state of it this is."""
    return full_name(cfg.data.name, Path(cfg.data.path) if "path" in cfg.data else None)


def with_digest(path: Path) -> str:
    """The name of a file of weights, or of a run's folder, with a hash of its content, if it is there."""
    if not (weights := weights_file(path)).is_file():
        return path.name
    with weights.open("rb") as file:
        return f"{path.name}-{hashlib.file_digest(file, 'sha256').hexdigest()[:10]}"


def run_folder(cfg: DictConfig) -> Path:
    """`<outputs>/<data>/<method>/<shots>-shot/seed<seed>-<hash of the identity>`."""
    digest = hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:10]
    outputs = Path(cfg.paths.outputs)
    return outputs / cfg.data.name / cfg.method.name / f"{cfg.shots}-shot" / f"seed{cfg.seed}-{digest}"


def run_name(cfg: DictConfig, folder: Path) -> str:
    """A run's name in W&B: sine-lstm-5-shot-seed0-…."""
    return f"{cfg.data.name}-{cfg.method.name}-{cfg.shots}-shot-{folder.resolve().name}"


def published_config(cfg: DictConfig, variant: str | None = None) -> DictConfig:
    """The published settings of a run's method, data, shots and variant; "???" where there are none."""
    groups = [f"{group}={cfg[group].name}" for group in ("data", "method")]
    return composed([*groups, f"shots={cfg.shots}", f"variant={variant or cfg.variant}", f"seed={cfg.seed}"])


def is_reduced(cfg: DictConfig) -> bool:
    """Whether a run has fewer tests, validation tasks, or both updates and training tasks than published."""
    if "path" in cfg.data:  # nothing is published on a user's own images
        return False
    published, trainer, size = published_config(cfg), cfg.trainer, cfg.method.meta_batch_size
    steps, tasks, val_tasks = (
        OmegaConf.select(published, name) or 0
        for name in ("trainer.max_steps", "method.meta_batch_size", "trainer.num_val_tasks")
    )
    if "???" in (steps, tasks, val_tasks):
        return False
    shorter = trainer.max_steps < steps and (trainer.max_steps + 1) * size <= steps * tasks
    fewer_tests = trainer.num_test_tasks < PAPER_TEST_TASKS.get(cfg.data.name, 600)
    return shorter or trainer.num_val_tasks < val_tasks or fewer_tests


def config_diff(cfg: DictConfig, variant: str | None = None, table: str | None = None) -> dict[str, Any]:
    """The training settings that differ from the published ones, by dotted name.

    Args:
        variant: whose published settings, "released" or "paper"; None: the run's own.
        table: as in `identity`.
    """
    published = published_config(cfg, variant)
    unset = [name for name, value in flatten(OmegaConf.to_container(published)).items() if value == "???"]
    for name in unset:
        OmegaConf.update(published, name, OmegaConf.select(cfg, name))  # others may follow from it
    theirs, missing = flatten(identity(published, table)), object()
    return {
        name: value
        for name, value in flatten(identity(cfg, table)).items()
        if name not in TEST_ONLY and (name in unset or theirs.get(name, missing) != value)
    }
