"""The configuration of a test: a run's, on its own data set or another one."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from fewshot.config.checks import check
from fewshot.config.compose import composed
from fewshot.config.load_config import stored_config
from fewshot.config.settings import SHARED
from fewshot.errors import UserError
from fewshot.methods import learner_class

CROSS_DOMAIN_QUERIES = 15


def trained_and_tested(cfg: DictConfig) -> tuple[DictConfig, DictConfig]:
    """The configurations of the run that `cfg` names and of its test; UserError where they do not fit each other."""
    trained = stored_config(Path(cfg.run))
    tested = test_config(cfg, trained)
    check(tested)
    if cfg.ways is not None and learner_class(trained.method.name).has_head and cfg.ways != trained.data.ways:
        raise UserError(f"ways={cfg.ways}: the run's head was trained for {trained.data.ways} ways")
    return trained, tested


def test_config(cfg: DictConfig, trained: DictConfig) -> DictConfig:
    """The configuration of the test: the run's, with the data, shots, ways, queries and tasks that `cfg` names."""
    tested = trained.copy()
    name = cfg.data or trained.data.name
    if cfg.path is not None and name != "folder":
        raise UserError(
            f"path={cfg.path} is for data=folder, and the test is on data={name}: leave out one of them"
        )
    path = (cfg.path or trained.data.get("path")) if name == "folder" else None
    if name == "folder" and not path:
        raise UserError("data=folder needs path=<a folder of class folders>")
    if path and not Path(path).exists():
        raise UserError(f"{path} does not exist: give a folder of class folders as path=…")
    with open_dict(tested):
        tested.data.name = name
        if path:
            tested.data.path = path
        if not same_data(trained, tested):
            tested.data = across(trained, name, path).data
        changes = {
            "paths": cfg.paths,
            "trainer.accelerator": cfg.accelerator,
            "trainer.num_threads": cfg.num_threads,
            "trainer.enable_progress_bar": cfg.enable_progress_bar,
            "shots": cfg.shots,
            "data.ways": cfg.ways,
            "data.test_queries": cfg.queries,
            "trainer.num_test_tasks": cfg.tasks,
            "trainer.eval_batch_size": cfg.eval_batch_size,
        }
        for key, value in changes.items():
            if value is not None:
                OmegaConf.update(tested, key, value)
    if cfg.ways is not None and "ways" not in trained.data:
        raise UserError(f"ways={cfg.ways}: data={name} is regression and has no ways, leave it out")
    return tested


def same_data(trained: DictConfig, tested: DictConfig) -> bool:
    """Whether a test is on the data set that the run was trained on."""
    paths = [Path(cfg.data.get("path") or "").resolve() for cfg in (trained, tested)]
    return tested.data.name == trained.data.name and paths[0] == paths[1]


def further_tests(cfg: DictConfig) -> list[DictConfig]:
    """The configurations of the tests on `data.test`: data sets by name, folders by path."""
    told = cfg.data.get("test", [])
    return [
        across(cfg, name) if name in SHARED else across(cfg, "folder", os.path.expanduser(name))
        for name in told
    ]


def across(trained: DictConfig, name: str, path: str | None = None) -> DictConfig:
    """The configuration that tests on data set `name` (the folder `path`), in the sizes and ways of the training."""
    new = composed([f"data={name}", f"method={trained.method.name}", "variant=paper"])
    if "sine" in (name, trained.data.name):
        raise UserError(f"the run was trained on {trained.data.name}: data={name} has other inputs")
    tested = trained.copy()
    with open_dict(tested):
        tested.data = OmegaConf.merge(new.data, {k: trained.data[k] for k in ("size", "channels", "ways")})
        if path:
            tested.data.path = path
        tested.data.test_queries = CROSS_DOMAIN_QUERIES
    return tested
