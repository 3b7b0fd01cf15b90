"""Checkpoints: written completely or not at all, and loaded without executing anything in them."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from fewshot.errors import UserError, brief
from fewshot.files import atomic_open
from fewshot.methods.base import MetaLearner


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint completely or not at all. Lightning moves it from another folder, which may be a
    copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_open(Path(path), "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's word for a file that takes no more
                raise OSError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def last_state(folder: Path) -> tuple[Path | None, int]:
    """The state that the run of `folder` resumes from, and its update; None and -1 where there is none.

    Raises:
        UserError: it cannot be loaded, or the best state is missing.
    """
    path, best = folder / "last.ckpt", folder / "best.ckpt"
    if not path.exists():
        return None, -1
    if not best.is_file():
        raise UserError(f"{best} is missing; overwrite=true trains from scratch")
    try:
        return path, int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:
        raise UserError(
            f"{path} cannot be loaded ({brief(error, 160)}); overwrite=true trains from scratch"
        ) from error


def load_weights(learner: MetaLearner, path: Path, method: str) -> int:
    """Loads a checkpoint's weights, without executing anything in it, and returns the update they are from.

    Raises:
        UserError: it cannot be loaded, or holds the weights of another learner.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads past a flipped bit
            if torn := archive.testzip():
                raise ValueError(f"{torn} in it is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, step = checkpoint["state_dict"], int(checkpoint["global_step"])
    except pickle.UnpicklingError as error:  # torch's own message says how to run what is in it
        raise UserError(f"{path} cannot be loaded: it holds more than tensors and plain values") from error
    except Exception as error:
        raise UserError(f"{path} cannot be loaded: {brief(error, 160)}") from error
    try:
        learner.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not hold the weights of the run's method={method}: {brief(error, 160)}"
        ) from error
    return step
