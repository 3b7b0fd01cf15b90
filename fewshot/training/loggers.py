"""Where curves go: a csv in the run's folder, and Weights & Biases or TensorBoard if wanted."""

import csv
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import choices_of
from fewshot.config.run_id import is_reduced, run_name
from fewshot.errors import UserError, brief
from fewshot.files import atomic_open, atomic_write

FIELDS = ["tasks", "step", "metric", "value"]
NOISE = (  # warnings that do not concern what a run computes
    "Checkpoint directory",
    ".*LeafSpec",
    "The number of training batches",
    ".*does not have many workers",
    "The `srun` command",
    "The AccumulateGrad node's stream",  # of captured graphs
)


def quiet() -> None:
    """Hides Lightning's advice; warnings about what a run computes stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # its compiler reports "no CUDA"
    for message in NOISE:
        warnings.filterwarnings("ignore", message)


class MetricsCsv(Logger):
    """Appends every logged number to `metrics.csv`, one per row: tasks seen, step, metric, value.

    Lightning's CSVLogger replaces the file when a run resumes.
    """

    name = "csv"
    version = None

    def __init__(self, path: Path, meta_batch_size: int) -> None:
        super().__init__()
        self.path, self.meta_batch_size = path, meta_batch_size

    def cut(self, step: int) -> None:
        """Drops rows after a step, which a resumed run logs again, and a row that a kill left incomplete."""
        if not self.path.exists():
            return
        seen = step * self.meta_batch_size
        with self.path.open(newline="", errors="replace") as old, atomic_open(self.path) as new:
            rows = [row for row in csv.reader(old) if len(row) == len(FIELDS) and row[0].isdigit()]
            csv.writer(new).writerows([FIELDS, *(row for row in rows if int(row[0]) <= seen)])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if (tasks := metrics.get("tasks")) is None:
            return
        seen = (int(tasks), round(tasks / self.meta_batch_size))
        rows = [(*seen, name, value) for name, value in metrics.items() if name not in ("tasks", "epoch")]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows if file.tell() else [FIELDS, *rows])

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run's folder already holds its configuration."""


def wandb_mode() -> str:
    """WANDB_MODE if it is set, else online for a user who is logged in, else offline."""
    import wandb

    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")


@contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Makes W&B stage tables and files in the run's folder, where `wandb sync` finds them.

    Its own place for them is the home folder, which may be small, or another one where the run is synced.
    """
    names = [name for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") if name not in os.environ]
    os.environ.update(dict.fromkeys(names, str((folder / "wandb").absolute())))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def kept_id(path: Path) -> str:
    """The id of a W&B run, from the file that keeps it; a new one if there is no file."""
    if not path.exists():
        atomic_write(path, secrets.token_hex(4))
    return path.read_text()


def first_and_number(config: Mapping[str, Any]) -> dict[str, Any]:
    """The number of layers and the units of the first: W&B plots and ranks numbers, not lists of units."""
    found: dict[str, Any] = {"layers": {}, "units": {}}
    for group in ("method", "backbone"):
        lists = {name: value for name, value in config[group].items() if isinstance(value, list) and value}
        found["layers"][group] = {name: len(units) for name, units in lists.items()}
        found["units"][group] = {name: units[0] for name, units in lists.items()}
    return found


def start_wandb(cfg: DictConfig, folder: Path, test: str = "") -> Any:
    """The W&B run of a run, or of a later `test` of it, named as its file in `evaluations`.

    The id is kept in the run's folder, so that a resumed run, or a repeated test, continues the same W&B run.

    Raises:
        UserError: W&B rejects its settings, such as a variable WANDB_….
    """
    import wandb  # takes more than half a second

    config: Any = OmegaConf.to_container(cfg, resolve=True)
    logger, study, data, method = config["logger"], config["study"], config["data"]["name"], config["method"]
    shots, variant = config["shots"], config["variant"]
    group = [study, data, f"{shots}shot", variant, "reduced" if is_reduced(cfg) else ""]
    tags = [method["name"], data, f"{shots}-shot", variant, config["backbone"]["name"], *logger["tags"]]
    kind = "evaluate" if test else "search" if study in choices_of("search") else "train"
    os.environ.setdefault("WANDB_SILENT", "true")
    settings: dict[str, Any] = {
        "id": kept_id(folder / "evaluations" / f"{test}.wandb_id" if test else folder / "wandb_id"),
        "resume": "allow",
        "dir": folder,
        "project": logger["project"],
        "entity": logger["entity"],
        "group": logger["group"] or "-".join(filter(None, group)),
        "name": os.environ.get("WANDB_NAME") or run_name(cfg, folder) + (f"-on-{test}" if test else ""),
        "job_type": os.environ.get("WANDB_JOB_TYPE") or kind,
        "tags": tags + list(filter(None, os.environ.get("WANDB_TAGS", "").split(","))),
        "config": config | first_and_number(config),
    }
    try:
        settings["settings"] = wandb.Settings(silent=True, console="off")
        run = wandb.init(mode=wandb_mode(), **settings)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"W&B does not start: {brief(error, 200)}") from error
    except wandb.Error as error:
        print(f"W&B does not start ({brief(error, 200)}): the run is kept offline", file=sys.stderr)
        run = wandb.init(mode="offline", **settings)
    run.define_metric("tasks")
    run.define_metric("*", step_metric="tasks")
    for metric, best in (("val/accuracy", "max"), ("val/mse", "min"), ("val/loss", "min")):
        run.define_metric(metric, step_metric="tasks", summary=best)
    return run


def end_wandb() -> None:
    """Ends the current W&B run, if any: the next job of a multirun has its own."""
    if "wandb" in sys.modules:
        try:
            sys.modules["wandb"].finish()
        except Exception as error:  # must not lose the run's result
            print(f"W&B did not finish: {brief(error, 200)}", file=sys.stderr)
