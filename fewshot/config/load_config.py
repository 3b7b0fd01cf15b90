"""The configuration that a run's folder holds. The folder may be somebody else's: it is data, not code."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fewshot.config.checks import check
from fewshot.config.compose import composed
from fewshot.errors import UserError

GROUPS = ("data", "method", "backbone", "logger")


def load_config(folder: Path) -> DictConfig:
    """A run's configuration; its classes are those that the configuration here names.

    Raises:
        UserError: the folder is no run's, or its configuration does not fit this version.
    """
    path = folder / "config.yaml"
    if not (folder / "best.ckpt").is_file() or not path.is_file():
        raise UserError(
            f"{folder} is no run's folder with a validated state: it needs config.yaml and best.ckpt"
        )
    text = path.read_text(encoding="utf-8")
    stored = OmegaConf.create(text)
    assert isinstance(stored, DictConfig)
    if "${" in text or "variant" not in stored:
        raise UserError(f"{path} is not a run's configuration, or is from an earlier version")
    stored.data.pop("test", None)  # folders that may be gone
    choices = [f"{group}={stored[group].name}" for group in GROUPS]
    trial = [f"+{name}=0" for name in ("trial", "search_seed") if name in stored]
    cfg = composed([*choices, f"shots={stored.shots}", f"variant={stored.variant}", *trial])
    for group in ("data", "method", "backbone"):
        if stored[group].get("_target_") != cfg[group]._target_:
            raise UserError(
                f"{path}: {group}={stored[group].name} is another class here, {cfg[group]._target_}"
            )
    cfg.merge_with(stored)
    check(cfg)
    return cfg
