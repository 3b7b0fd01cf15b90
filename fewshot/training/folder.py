"""A run's folder: checkpoints, a finished result, the split of the classes, the state of a shorter run."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import plain
from fewshot.config.run_id import run_folder, table_name
from fewshot.data.datamodule import Source
from fewshot.data.row_source import RowSource
from fewshot.errors import UserError, brief
from fewshot.files import atomic_open, atomic_write
from fewshot.methods import MetaLearner
from fewshot.results.environment import environment, git_commit
from fewshot.results.record import Result, read_result, show
from fewshot.training.update import kind_of_update

SAME = (  # what is not in a run's identity and yet changes the rounding of a sum, or the curves
    *("log_every_n_steps", "similarity", "micro_batch_size", "eval_batch_size", "deterministic", "benchmark"),
    *("compile", "update", "device", "devices", "tf32", "threads", "versions", "git_commit"),
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target; Lightning moves a file from another folder, and a copy is not atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_open(Path(path), "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's word for a file that takes no more
                raise OSError(f"{path} cannot be written: {brief(error, 160)}") from error


def load_weights(learner: MetaLearner, path: Path) -> int:
    """Loads the weights of a checkpoint, or raises UserError; returns the update that they are from."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        learner.load_state_dict(checkpoint["state_dict"])
        return int(checkpoint["global_step"])
    except Exception as error:
        raise UserError(f"{path} cannot be loaded (for these ways?): {brief(error, 300)}") from error


def overwrites(cfg: DictConfig, folder: Path) -> bool:
    """Whether the run starts again; not in a Slurm job that began to overwrite it before it was requeued."""
    job, restarts = folder / ".job", os.environ.get("SLURM_RESTART_COUNT", "0")
    restarted = restarts != "0" and job.exists() and job.read_text() == os.environ.get("SLURM_JOB_ID")
    return bool(cfg.overwrite and not restarted)


def finished(cfg: DictConfig, folder: Path) -> Result | None:
    """The result of a run that has ended for good, shown; None where it has to be trained."""
    if overwrites(cfg, folder):
        return None
    metrics, similarity = folder / "metrics.csv", cfg.trainer.similarity
    if similarity != "none" and metrics.exists() and f"similarity_{similarity}/" not in metrics.read_text():
        raise UserError(f"{folder} began without trainer.similarity={similarity}: use overwrite=true")
    result = read_result(folder)
    if result is None or result["status"] not in ("finished", "diverged"):
        return None
    print(f"already {result['status']}; overwrite=true trains it from scratch", file=sys.stderr)
    show(result, folder)
    return result


def start_folder(cfg: DictConfig, folder: Path, source: Source) -> None:
    """Empties a folder that is overwritten; writes the configuration and the split."""
    if overwrites(cfg, folder):
        for path in folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        atomic_write(folder / ".job", os.environ.get("SLURM_JOB_ID", ""))
    source.standardise(stored_split(folder, source).get("scales", {}))  # or an error
    atomic_write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    if isinstance(source, RowSource):
        split = {"table": table_name(cfg)} | source.classes() | {"left_out": source.left_out}
        if source.scales:
            split["scales"] = source.scales
        atomic_write(folder / "split.json", json.dumps(split) + "\n")


def stored_split(folder: Path, source: Source | None) -> dict[str, Any]:
    """The run's table and, by split, its classes with their numbers of images; empty on sine waves.

    UserError where those of `source` are split otherwise, say in a folder that grew since the run began.
    """
    path = folder / "split.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    now = json.loads(json.dumps(source.classes())) if isinstance(source, RowSource) else {}
    if stored and stored != stored | now:
        raise UserError(f"the data of the run have changed since it began: {path} has them")
    return stored


def extend(cfg: DictConfig, folder: Path, learner: MetaLearner, trainer: L.Trainer) -> None:
    """Copies the final state of the longest run that is only shorter, where no bit of the result changes."""
    steps, path, result = max(shorter_runs(cfg, folder), default=(0, folder, {}))
    if steps == 0:
        return
    now = {**cfg.trainer, **environment(trainer), "git_commit": git_commit()}
    now["update"] = kind_of_update(cfg.trainer.compile, learner, trainer)
    then = {**OmegaConf.load(path / "config.yaml").trainer, **result}
    if differing := [name for name in SAME if then.get(name) != now[name]]:
        print(f"does not continue {path}, which has another {differing[0]}", file=sys.stderr)
        return
    state: dict[str, Any] = torch.load(path / "last.ckpt", map_location="cpu", weights_only=True)
    state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False  # there are more now
    for name in ("metrics.csv", "best.ckpt"):
        with atomic_open(folder / name, "wb") as file:
            file.write((path / name).read_bytes())
    AtomicCheckpointIO().save_checkpoint(state, folder / "last.ckpt")  # last: with it a folder is resumed
    print(f"continues {path}", file=sys.stderr)


def shorter_runs(cfg: DictConfig, folder: Path) -> Iterator[tuple[int, Path, dict[str, Any]]]:
    """Updates, folder and result of each finished run that differs in having fewer updates only."""
    shorter = OmegaConf.create(plain(cfg))
    for path in folder.parent.glob(f"seed{cfg.seed}-*"):
        complete = all((path / name).exists() for name in ("last.ckpt", "best.ckpt", "metrics.csv"))
        result = read_result(path)
        if complete and result and result["status"] == "finished":
            shorter.trainer.max_steps = steps = result["train_tasks"] // cfg.method.meta_batch_size
            if steps < cfg.trainer.max_steps and path.name == run_folder(shorter).name:
                yield steps, path, result
