"""Where curves go: a csv in the run's folder, Weights & Biases or TensorBoard beside it, or nowhere."""

import csv
import json
import logging
import os
import re
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
from fewshot.errors import UserError
from fewshot.files import atomic_open, atomic_write

FIELDS = ("tasks", "step", "metric", "value")
STAGING = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")  # where W&B keeps copies of what it uploads


def quiet() -> None:
    """Keeps Lightning's advice off the screen; its warnings about what a run does stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA": of its compiler
    for text in (
        "Checkpoint directory",
        ".*LeafSpec",
        "The number of training batches",
        ".*does not have many workers",
        "The `srun` command",
        "The AccumulateGrad node's stream",  # of graphs that were recorded beside it
    ):
        warnings.filterwarnings("ignore", text)


class MetricsCsv(Logger):
    """Appends every logged number to `metrics.csv`, one a row: tasks seen, update, metric, value."""

    name = "csv"
    version = ""

    def __init__(self, path: Path, meta_batch_size: int) -> None:
        super().__init__()
        self.path, self.meta_batch_size = path, meta_batch_size

    def cut(self, update: int) -> None:
        """Drops what was logged after an update, and rows that a kill has torn: a resumed run logs it again."""
        if self.path.exists():
            with self.path.open(newline="", errors="replace") as file, atomic_open(self.path) as kept:
                kept.write(",".join(FIELDS) + "\r\n")
                for line in file:
                    row = re.fullmatch(r'(\d{1,18}),\d+,([^",]+|"[^"]+"),[-+.\dainfe]+\r?\n', line)
                    if row and int(row[1]) <= update * self.meta_batch_size:
                        kept.write(line)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if (tasks := metrics.get("tasks")) is None:
            return
        seen = (int(tasks), round(tasks / self.meta_batch_size))
        rows = [(*seen, name, value) for name, value in metrics.items() if name not in ("tasks", "epoch")]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(rows if file.tell() else [FIELDS, *rows])

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run's folder holds its configuration already."""


def wandb_mode() -> str:
    """What WANDB_MODE says; without it online for a user who is logged in, offline otherwise."""
    import wandb

    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")


@contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """W&B's copies of tables and files lie in the run's folder, where an offline run finds them when it is synced.

    W&B's own place for them is the home folder, which may be small, or another one where the run is synced.
    """
    told = {name: os.environ.get(name) for name in STAGING}
    for name in STAGING:
        os.environ.setdefault(name, str((folder / "wandb").absolute()))
    try:
        yield
    finally:
        for name, value in told.items():
            if value is None:
                del os.environ[name]


def end_wandb() -> None:
    """Ends what `start_wandb` began, if anything: the next cell of a multirun has a run of its own."""
    if "wandb" in sys.modules:
        try:
            sys.modules["wandb"].finish()
        except Exception as error:  # how a run ended is not changed by it
            print(f"W&B did not end in order: {type(error).__name__}: {error}", file=sys.stderr)


def of_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of each list of layers' units their number and the first one's units: W&B draws and ranks numbers, not lists."""
    told: dict[str, Any] = {"layers": {}, "units": {}}
    for group in ("method", "backbone"):
        lists = {key: value for key, value in config[group].items() if isinstance(value, list) and value}
        told["layers"][group] = {key: len(units) for key, units in lists.items()}
        told["units"][group] = {key: units[0] for key, units in lists.items()}
    return told


def kept_id(path: Path) -> str:
    """The id of a W&B run, from the file that keeps it; a new one where there is none."""
    wandb_id = path.read_text(errors="replace") if path.exists() else ""
    if not re.fullmatch("[0-9a-f]{8}", wandb_id):
        wandb_id = secrets.token_hex(4)
        atomic_write(path, wandb_id)
    return wandb_id


def start_wandb(cfg: DictConfig, folder: Path, test: str = "") -> Any:
    """The W&B run of a run, or of a `test` that was made of it later, as the file in `evaluations` is named.

    Its id is kept in the run's folder, so that a resumed run, or the test made again, goes on in the same one.
    """
    import wandb  # more than half a second, for those who log there

    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    wandb_id = kept_id(folder / "evaluations" / f"{test}.wandb_id" if test else folder / "wandb_id")
    data, method = config["data"]["name"], config["method"]["name"]
    os.environ.setdefault("WANDB_SILENT", "true")  # its banners; errors are still raised

    told, searches = config["logger"], choices_of("search")
    group = [config["study"], data, f"{config['shots']}shot", config["variant"]]
    group += ["reduced"] if is_reduced(cfg) else []
    kind = "evaluate" if test else "search" if config["study"] in searches else "train"
    name = run_name(cfg, folder) + (f"-on-{test}" if test else "")
    tags = [
        method,
        data,
        f"{config['shots']}-shot",
        config["variant"],
        config["backbone"]["name"],
        *told["tags"],
    ]

    def start(mode: str) -> Any:
        return wandb.init(
            name=os.environ.get("WANDB_NAME") or name,
            dir=folder,
            mode=mode,  # type: ignore[arg-type]
            id=wandb_id,
            project=told["project"],
            entity=told["entity"],
            resume="allow",
            group=told["group"] or "-".join(filter(None, group)),
            job_type=os.environ.get("WANDB_JOB_TYPE") or kind,
            tags=[*tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))],
            config=json.loads(json.dumps(config | of_layers(config))),
            settings=wandb.Settings(silent=True, console="off"),
        )

    try:
        run = start(wandb_mode())
    except ValueError as error:  # of its settings, WANDB_… among them
        line = " ".join(str(error).split())[:200]
        raise UserError(f"W&B does not start: {line}: mend its settings, or choose logger=csv") from error
    except wandb.Error as error:
        print(
            f"W&B does not start ({' '.join(str(error).split())}): the run is kept offline", file=sys.stderr
        )
        run = start("offline")
    run.define_metric("tasks")
    run.define_metric("*", step_metric="tasks")
    for metric, best in (("val/accuracy", "max"), ("val/mse", "min"), ("val/loss", "min")):
        run.define_metric(metric, step_metric="tasks", summary=best)
    return run
