"""A run's folder: whether it holds a finished run, what it has to hold before training starts."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.config.eval_config import further_tests
from fewshot.config.run_id import table_name
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import UserError
from fewshot.files import atomic_write
from fewshot.methods import MetaLearner
from fewshot.results.record import final_result, show
from fewshot.training.build import make_datamodule
from fewshot.training.split import check_split, write_split

SLURM_JOB = ".job"  # the job that began to overwrite the run


def finished(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The result of a run that has ended for good, shown; None where it has to be trained."""
    if cfg.overwrite and not restarted_by_slurm(folder):
        return None
    result = final_result(folder)
    measured = cfg.trainer.similarity == "none" or holds_similarity(folder, cfg.trainer.similarity)
    if not measured and (result or (folder / "last.ckpt").exists()):
        raise UserError(
            f"the run of {folder} began without trainer.similarity={cfg.trainer.similarity}, which is "
            "measured during training: overwrite=true trains it from scratch"
        )
    if result is not None:
        print(f"already {result['status']}; overwrite=true trains it from scratch", file=sys.stderr)
        if cfg.predictions and not (folder / "predictions.csv").exists():
            print(f"its predictions: python evaluate.py run={folder} predictions=true", file=sys.stderr)
        show(result, folder)
    return result


def holds_similarity(folder: Path, definition: str) -> bool:
    """Whether a run's metrics hold a similarity from the first validation on."""
    path = folder / "metrics.csv"
    return path.exists() and f"\n0,0,similarity_{definition}/" in path.read_text()


def check_folder(cfg: DictConfig, folder: Path, datamodule: EpisodicDataModule) -> None:
    """UserError where the run cannot resume with these data, or a further data set cannot be tested on."""
    if not cfg.overwrite:
        check_split(folder, datamodule.source)
    for further in further_tests(cfg):
        try:
            make_datamodule(further, "test")
        except UserError as error:
            raise UserError(f"data.test={table_name(further)}: {error}") from error


def start_folder(cfg: DictConfig, folder: Path, datamodule: EpisodicDataModule, learner: MetaLearner) -> None:
    """Empties the folder where the run is to be overwritten; writes the configuration and the split."""
    if cfg.overwrite and not restarted_by_slurm(folder):
        for path in folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if job := os.environ.get("SLURM_JOB_ID"):
            atomic_write(folder / SLURM_JOB, job)
    for part in folder.glob("*.part"):  # left of a file by a kill
        part.unlink()
    atomic_write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    write_split(folder, datamodule.source, table_name(cfg))
    weights = sum(p.numel() for p in learner.parameters())
    print(
        f"{cfg.method.name} on {cfg.data.name}: {weights} parameters, backbone {cfg.backbone.name}, variant "
        f"{cfg.variant}, {cfg.trainer.max_steps} updates of {cfg.method.meta_batch_size} tasks",
        file=sys.stderr,
    )


def restarted_by_slurm(folder: Path) -> bool:
    """Whether this Slurm job began to overwrite the run before it was requeued."""
    begun, restarts = folder / SLURM_JOB, os.environ.get("SLURM_RESTART_COUNT", "0")
    return restarts != "0" and begun.is_file() and begun.read_text() == os.environ.get("SLURM_JOB_ID")
