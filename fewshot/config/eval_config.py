"""The configuration of a test: a run's, on its own data set or another one."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from fewshot.config.checks import check
from fewshot.config.compose import choices_of, composed
from fewshot.errors import UserError

CROSS_DOMAIN_QUERIES = 15


def eval_config(cfg: DictConfig, trained: DictConfig) -> DictConfig:
    """The configuration of the test that `cfg` of evaluate.py asks for, of the run that `trained` describes.

    Raises:
        UserError: settings are wrong, or do not fit the run.
    """
    name = cfg.data or trained.data.name
    path = (cfg.path or trained.data.get("path")) if name == "folder" else None
    if name == "folder" and not path:
        raise UserError("data=folder needs path=<a folder of class folders>")
    if cfg.path is not None and name != "folder":
        raise UserError(f"path={cfg.path} is for data=folder")
    if path and not Path(path).exists():
        raise UserError(f"{path} does not exist: give a folder of class folders as path=…")
    if cfg.ways is not None and "ways" not in trained.data:
        raise UserError(f"ways={cfg.ways}: sine waves have no ways")
    tested = trained.copy()
    if name != trained.data.name or (path and Path(path).resolve() != Path(trained.data.path).resolve()):
        tested = across(trained, name, path)
    changes = {
        "paths": cfg.paths,
        "trainer.accelerator": cfg.accelerator,
        "trainer.num_threads": cfg.num_threads,
        "trainer.enable_progress_bar": cfg.enable_progress_bar,
        "predictions": cfg.predictions,
        "backbone.bn": cfg.bn,
        "shots": cfg.shots,
        "data.ways": cfg.ways,
        "data.test_queries": cfg.queries,
        "trainer.num_test_tasks": cfg.tasks,
        "trainer.eval_batch_size": cfg.eval_batch_size,
    }
    with open_dict(tested):
        for key, value in changes.items():
            if value is not None:
                OmegaConf.update(tested, key, value)
    check(tested)
    return tested


def same_data(trained: DictConfig, tested: DictConfig) -> bool:
    """Whether a test is on the data set that the run was trained on."""
    paths = [Path(cfg.data.get("path") or "").resolve() for cfg in (trained, tested)]
    return tested.data.name == trained.data.name and paths[0] == paths[1]


def further_tests(cfg: DictConfig) -> list[DictConfig]:
    """The configurations of the tests on `data.test`: data sets by name, folders by path."""
    known = set(choices_of("data")) - {"folder"}
    return [
        across(cfg, name) if name in known else across(cfg, "folder", os.path.expanduser(name))
        for name in cfg.data.get("test", [])
    ]


def across(trained: DictConfig, name: str, path: str | None = None) -> DictConfig:
    """The configuration of a test on data set `name` (folder `path`), in the sizes and ways of training."""
    if "sine" in (name, trained.data.name):
        raise UserError(f"the run was trained on {trained.data.name}: data={name} has other inputs")
    if path and not Path(path).exists():
        raise UserError(f"{path} is neither a data set nor a folder")
    tested = trained.copy()
    data = composed([f"data={name}", f"method={trained.method.name}", "variant=paper"]).data
    own = {key: trained.data[key] for key in ("size", "channels", "ways")}
    changes = own | {"test_queries": CROSS_DOMAIN_QUERIES} | ({"path": path} if path else {})
    with open_dict(tested):
        tested.data = OmegaConf.merge(data, changes)
    return tested
