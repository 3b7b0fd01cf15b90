"""The configuration of a run's folder, and of a test of the run on its own data or others.

The folder may be somebody else's: it is data, not code.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import choices_of, composed
from fewshot.config.settings import check
from fewshot.errors import UserError

CROSS_DOMAIN_QUERIES = 15
CLASSES = ("data", "method", "backbone")  # the groups that name one


def load_config(folder: Path) -> DictConfig:
    """A run's configuration; its classes are those that the configuration here names, or UserError."""
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
    name = cfg.data or ("folder" if cfg.path else trained.data.name)
    path = (cfg.path or trained.data.get("path")) if name == "folder" else None
    tested = trained.copy() if same_data(trained, name, path) else across(trained, name, path)
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
    return [across(cfg, name) if name in named else across(cfg, "folder", name) for name in tests]


def across(trained: DictConfig, name: str, path: str | None = None) -> DictConfig:
    """The configuration of a test on data set `name` (folder `path`), in the sizes and ways of training."""
    if "sine" in (name, trained.data.name):
        raise UserError(f"the run was trained on {trained.data.name}: data={name} has other inputs")
    if name == "folder" and not (path and Path(path).exists()):
        raise UserError(f"{path} does not exist: give a folder of class folders as path=…")
    changes = {key: trained.data[key] for key in ("size", "channels", "ways")}
    changes |= {"test_queries": CROSS_DOMAIN_QUERIES} | ({"path": path} if path else {})
    tested = trained.copy()
    tested.data = OmegaConf.merge(composed([f"data={name}"]).data, changes)
    return tested
