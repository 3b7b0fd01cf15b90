"""The image table of a run."""

from pathlib import Path

from omegaconf import DictConfig

from fewshot.data.images import open_or_prepare
from fewshot.data.table import Table


def open_table(cfg: DictConfig) -> Table:
    """The prepared table of an image set, prepared now if it is not there; UserError where its files are not."""
    data, path = cfg.data, Path(cfg.data.path) if "path" in cfg.data else None
    return open_or_prepare(data.name, Path(cfg.paths.raw), Path(cfg.paths.prepared), data.size, data.channels, path)
