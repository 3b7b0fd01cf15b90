"""Pretrained weights of a backbone, from a file or from the best state of a run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot.errors import UserError
from fewshot.files import weights_file

WRAPPED = ("state_dict", "model")  # under which a checkpoint may keep its weights
SHOWN = 3


def load(net: nn.Module, weights: str, head: str | None = None) -> None:
    """Loads weights into a network, without executing anything in the file.

    Args:
        weights: a file, .pt, .pth, .ckpt or .safetensors, or the folder of a run.
        head: name of the network's classifier, which keeps its own weights.

    Raises:
        UserError: the file cannot be read, or names or shapes are not the network's.
    """

    def of_body(name: str) -> bool:
        return head is None or not name.startswith(f"{head}.")

    try:
        own = net.state_dict()
        state = {name: value for name, value in read(weights_file(Path(weights))).items() if of_body(name)}
        wrong = [name for name, value in state.items() if name in own and value.shape != own[name].shape]
        fitting = {name: value for name, value in state.items() if name not in wrong}
        found = net.load_state_dict(fitting, strict=False)
    except Exception as error:  # a foreign file can fail in any way
        line = " ".join(str(error).split())[:160]
        raise UserError(f"backbone.weights={weights} cannot be loaded: {line}") from error
    missing = [name for name in found.missing_keys if of_body(name) and name not in wrong]
    shapes = [f"{name} ({size(state[name])}, not {size(own[name])})" for name in wrong]
    differing = {"missing": missing, "unexpected": found.unexpected_keys, "wrong shape": shapes}
    if misfits := [f"{what} {listed(names)}" for what, names in differing.items() if names]:
        raise UserError(f"backbone.weights={weights} are those of another model: {'; '.join(misfits)}")


def read(file: Path) -> Mapping[str, Tensor]:
    """A file's weights by name; of a learner's checkpoint those of its body."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    state = torch.load(file, map_location="cpu", weights_only=True)
    of_learner = "pytorch-lightning_version" in state
    for name in WRAPPED:
        state = state.get(name, state)
    if not of_learner:
        return state
    named = {name.removeprefix("net."): value for name, value in state.items()}  # MAML has its body in a net
    return {name.removeprefix("body."): value for name, value in named.items() if name.startswith("body.")}


def size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
