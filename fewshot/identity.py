"""What makes a run the run it is: the settings its score depends on, the folder named by them, the shipped ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.cli import composed
from fewshot.data.images import full_name

# keys that do not change a score, left out of a run's identity
NOT_SCORE = ("logger", "paths", "force")
NOT_SCORE_TRAINER = ("eval_batch", "save_every", "log_every", "accelerator", "threads", "max_time", "bar", "similarity")
TEST_ONLY = ("test_queries", "test_queries_of", "test_tasks")


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What a run's score depends on, as plain data."""
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in NOT_SCORE:
        del plain[key]
    for key in NOT_SCORE_TRAINER:
        del plain["trainer"][key]
    plain["data"].pop("test", None)
    if "path" in plain["data"]:
        plain["data"]["path"] = full_name(cfg.data.name, Path(cfg.data.path))
    return plain


def run_folder(cfg: DictConfig) -> Path:
    """`<outputs>/<data>/<method>/<shots>-shot/seed<seed>-<hash of the identity>`."""
    digest = hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:10]
    return Path(cfg.paths.outputs) / cfg.data.name / cfg.method.name / f"{cfg.shots}-shot" / f"seed{cfg.seed}-{digest}"


def published(cfg: DictConfig) -> bool:
    """Whether a run's training settings are those the package ships for its method, data, shots and form."""

    def training(of: DictConfig) -> dict[str, Any]:
        plain = identity(of)
        for key in TEST_ONLY:
            plain["data"].pop(key, None)
            plain["trainer"].pop(key, None)
        return plain

    choices = [f"data={cfg.data.name}", f"method={cfg.method.name}", f"shots={cfg.shots}", f"form={cfg.form}"]
    default = composed([*choices, f"seed={cfg.seed}"])
    return not OmegaConf.missing_keys(default) and training(default) == training(cfg)
