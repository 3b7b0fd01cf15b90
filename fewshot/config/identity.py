"""What makes a run the run it is: the settings its score depends on, the folder named by them, the shipped ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import composed, flatten
from fewshot.data.images import full_name

# keys that do not change a score, left out of a run's identity
NOT_SCORE = ("logger", "paths", "force", "study", "trial", "search_seed")
NOT_SCORE_TRAINER = (
    *("eval_batch", "train_batch", "save_every", "log_every"),
    *("accelerator", "devices", "threads", "compile", "max_time", "bar", "similarity"),
)
LIGHTNING = ("gradient_clip_val", "gradient_clip_algorithm", "fast_dev_run")  # of Lightning's own, those that do
TEST_ONLY = ("test_queries", "test_queries_of", "test_tasks")


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What a run's score depends on, as plain data."""
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in NOT_SCORE:
        plain.pop(key, None)
    for key in NOT_SCORE_TRAINER:
        del plain["trainer"][key]
    lightning = plain["trainer"].pop("lightning", {})
    if of_score := {key: value for key, value in lightning.items() if key in LIGHTNING}:
        plain["trainer"]["lightning"] = of_score
    plain["data"].pop("test", None)
    if "path" in plain["data"]:
        plain["data"]["path"] = full_name(cfg.data.name, Path(cfg.data.path))
    return plain


def run_folder(cfg: DictConfig) -> Path:
    """`<outputs>/<data>/<method>/<shots>-shot/seed<seed>-<hash of the identity>`."""
    digest = hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:10]
    return Path(cfg.paths.outputs) / cfg.data.name / cfg.method.name / f"{cfg.shots}-shot" / f"seed{cfg.seed}-{digest}"


def changed(cfg: DictConfig, form: str | None = None) -> dict[str, Any]:
    """The training settings that are not those the package ships for a method, data, shots and form, dotted.

    `form` instead of the run's own: "released" is what made the paper's tables.
    """
    choices = [f"data={cfg.data.name}", f"method={cfg.method.name}", f"shots={cfg.shots}", f"form={form or cfg.form}"]
    shipped = composed([*choices, f"seed={cfg.seed}"])
    own = [key for key, value in flatten(OmegaConf.to_container(shipped)).items() if value == "???"]
    for key in own:
        OmegaConf.update(shipped, key, OmegaConf.select(cfg, key))
    there = flatten(identity(shipped))
    return {
        key: value
        for key, value in flatten(identity(cfg)).items()
        if not set(key.split(".")) & set(TEST_ONLY) and (key in own or key not in there or there[key] != value)
    }
