"""What makes a run the run it is: the settings its score depends on, the folder named by them, the published_config ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import composed, flatten
from fewshot.data.images import full_name
from fewshot.files import weights_file
from fewshot.results.paper import TASKS

# keys that do not change a score, left out of a run's identity
NOT_SCORE = ("logger", "paths", "overwrite", "predictions", "study", "trial", "search_seed")
NOT_SCORE_TRAINER = (
    *("eval_batch_size", "micro_batch_size", "save_every_n_steps", "log_every_n_steps"),
    *("accelerator", "devices", "num_threads", "compile", "max_time", "enable_progress_bar", "similarity"),
)
LIGHTNING = (
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "fast_dev_run",
)  # of Lightning's own, those that do
TEST_ONLY = ("test_queries", "test_queries_of", "num_test_tasks")


def identity(cfg: DictConfig, table: str | None = None) -> dict[str, Any]:
    """What a run's score depends on, as plain data; `table` names a folder's data where the folder may be gone."""
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in NOT_SCORE:
        plain.pop(key, None)
    for key in NOT_SCORE_TRAINER:
        del plain["trainer"][key]
    lightning = plain["trainer"].pop("lightning", {})
    if of_score := {key: value for key, value in lightning.items() if key in LIGHTNING}:
        plain["trainer"]["lightning"] = of_score
    plain["data"].pop("test", None)
    if plain["data"].get("train_ways") in (None, plain["data"].get("ways")):
        plain["data"].pop("train_ways", None)
    if "path" in plain["data"]:
        plain["data"]["path"] = table or full_name(cfg.data.name, Path(cfg.data.path))
    if weights := plain["backbone"].get("weights"):
        plain["backbone"]["weights"] = with_digest(Path(weights))
    elif plain["backbone"].get("body") in (
        None,
        "resnet12",
    ):  # runs made before these networks had this setting
        plain["backbone"].pop("weights", None)
    return plain


def with_digest(path: Path) -> str:
    """The name of a file, or of a run's folder, with what tells its weights from others', wherever it lies; the name
    alone where they are gone."""
    if not (weights := weights_file(path)).is_file():
        return path.name
    with weights.open("rb") as file:
        return f"{path.name}-{hashlib.file_digest(file, 'sha256').hexdigest()[:10]}"


def run_folder(cfg: DictConfig) -> Path:
    """`<outputs>/<data>/<method>/<shots>-shot/seed<seed>-<hash of the identity>`."""
    digest = hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:10]
    return (
        Path(cfg.paths.outputs)
        / cfg.data.name
        / cfg.method.name
        / f"{cfg.shots}-shot"
        / f"seed{cfg.seed}-{digest}"
    )


def run_name(cfg: DictConfig, folder: Path) -> str:
    """What a run is called where all are in one place, as in W&B, wherever its folder is: sine-lstm-5-shot-seed0-…."""
    return f"{cfg.data.name}-{cfg.method.name}-{cfg.shots}-shot-{folder.resolve().name}"


def published_config(cfg: DictConfig, variant: str | None = None) -> DictConfig:
    """What the package has for a method, data, shots and variant; "???" where it has nothing."""
    choices = [
        f"data={cfg.data.name}",
        f"method={cfg.method.name}",
        f"shots={cfg.shots}",
        f"variant={variant or cfg.variant}",
    ]
    return composed([*choices, f"seed={cfg.seed}"])


def is_reduced(cfg: DictConfig) -> bool:
    """Whether a run has fewer tests, validation tasks, or both updates and training tasks than the paper's."""
    whole, run = published_config(cfg), cfg.trainer
    updates, meta_batch_size, num_val_tasks = (
        OmegaConf.select(whole, key) or 0
        for key in ("trainer.max_steps", "method.meta_batch_size", "trainer.num_val_tasks")
    )
    fewer = (
        run.max_steps < updates
        and (run.max_steps + 1) * cfg.method.meta_batch_size <= updates * meta_batch_size
    )
    return fewer or run.num_val_tasks < num_val_tasks or run.num_test_tasks < TASKS.get(cfg.data.name, 600)


def config_diff(cfg: DictConfig, variant: str | None = None, table: str | None = None) -> dict[str, Any]:
    """The training settings that are not those the package ships for a method, data, shots and variant, dotted.

    `variant` instead of the run's own: "released" is what made the paper's tables. `table` as in `identity`.
    """
    whole = published_config(cfg, variant)
    own = [key for key, value in flatten(OmegaConf.to_container(whole)).items() if value == "???"]
    for key in own:
        OmegaConf.update(whole, key, OmegaConf.select(cfg, key))
    there = flatten(identity(whole, table))
    return {
        key: value
        for key, value in flatten(identity(cfg, table)).items()
        if not set(key.split(".")) & set(TEST_ONLY)
        and (key in own or key not in there or there[key] != value)
    }
