"""A run's states on disk: written whole, read without executing anything in them, checked before they are used."""

import math
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from fewshot.errors import UserError
from fewshot.files import whole
from fewshot.methods.base import MetaLearner


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or not there. Lightning's go through the system's temporary folder, by a copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole(Path(path), "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's word for a file that takes no more
                raise OSError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def newest_state(learner: MetaLearner, folder: Path, method: str) -> tuple[Path | None, int]:
    """The newest state that can be loaded, and its update; None and -1 for a run that begins.

    A damaged one is set aside where the one before it can be gone on from, so that it never takes that one's place.

    Raises:
        UserError: before anything is trained, where there are checkpoints and none that a run could go on from.
    """
    damaged: list[tuple[Path, UserError]] = []
    for path in (folder / "last.ckpt", folder / "previous.ckpt"):  # a kill between two renames leaves the second only
        if not path.exists():
            continue
        try:
            done = load_weights(learner, path, method, to_go_on=True)
        except UserError as error:
            damaged.append((path, error))
            continue
        try:
            load_weights(learner, folder / "best.ckpt", method)
        except UserError as error:
            raise UserError(f"{error}; force=true runs it anew") from error
        for bad, damage in damaged:
            set_aside(bad, f"{damage}: going on from the state before, of update {done}")
        return path, done
    if damaged:
        raise UserError(f"{damaged[0][1]}; force=true runs it anew") from damaged[0][1]
    return None, -1


def set_aside(state: Path, why: str) -> None:
    print(why, file=sys.stderr)
    state.replace(state.with_name(f"{state.name}.damaged"))


def load_weights(learner: MetaLearner, path: Path, method: str, to_go_on: bool = False) -> int:
    """Loads a checkpoint's weights, without executing anything in it, and returns the update they are from.

    Raises:
        UserError: it holds none, those of another learner or, where `to_go_on`, no state of a training beside them.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing, or no file")
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads past a flipped bit
            if torn := archive.testzip():
                raise ValueError(f"{torn} in it is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, step = checkpoint["state_dict"], int(checkpoint["global_step"])
    except pickle.UnpicklingError as error:  # torch's own words say how to run it
        raise UserError(
            f"{path} is not a checkpoint of weights: it holds more than tensors and plain values"
        ) from error
    except Exception as error:  # a foreign file can fail in any way
        line = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path} is not a checkpoint of weights: {line}") from error
    try:
        learner.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        line = " ".join(str(error).split())[:160]
        raise UserError(f"{path} does not hold the weights of the run's method={method}: {line}") from error
    if to_go_on and not is_state(checkpoint, learner):
        raise UserError(f"{path} is no state that a run can go on from")
    return step


def is_state(checkpoint: dict[str, Any], learner: MetaLearner) -> bool:
    """Whether a checkpoint says of its optimiser, its best state and its progress what its weights and update say.

    Where a part is missing, Lightning would begin anew with trained weights, or not find the best state; moments of
    another shape than their weights would be read beyond their end.
    """
    try:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        [best] = [state for name, state in checkpoint["callbacks"].items() if name.startswith("SaveBest")]
        [score] = best["best_k_models"].values()
        [optimizer] = checkpoint["optimizer_states"]
        weights = list(learner.parameters())
        moments = [(n, state[key]) for n, state in optimizer["state"].items() for key in state if key.startswith("exp")]
        return (
            progress["optimizer"]["step"]["total"]["completed"] == checkpoint["global_step"]
            and math.isfinite(score)
            and 0 <= checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] < math.inf
            and [n for group in optimizer["param_groups"] for n in group["params"]] == list(range(len(weights)))
            and all(moment.shape == weights[n].shape and moment.dtype == weights[n].dtype for n, moment in moments)
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return False
