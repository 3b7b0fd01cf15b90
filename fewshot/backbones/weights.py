"""Pretrained weights of a backbone, from a file or from the best state of a run's folder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot.errors import UserError, brief
from fewshot.files import weights_file


def load(net: nn.Module, weights: str, head: str | None = None) -> None:
    """Loads weights into a network, without executing anything in the file.

    Args:
        weights: a file, .pt, .pth, .ckpt or .safetensors, or the folder of a run.
        head: name of the network's classifier, which keeps its own weights.

    Raises:
        UserError: the file cannot be read, or names or shapes are not the network's.
    """
    own = net.state_dict()
    try:
        state = dict(read(weights_file(Path(weights))))
        if head is not None:
            state |= {name: value for name, value in own.items() if name.startswith(f"{head}.")}
        net.load_state_dict(state)
    except Exception as error:  # whatever the file holds
        raise UserError(f"backbone.weights={weights} cannot be loaded: {brief(error, 400)}") from error


def read(file: Path) -> Mapping[str, Tensor]:
    """A file's weights by name; of a learner's checkpoint those of its body."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    state = checkpoint.get("state_dict", checkpoint)
    if "pytorch-lightning_version" not in checkpoint:
        return state.get("model", state)
    named = {name.removeprefix("net."): value for name, value in state.items()}  # MAML's body is in a net
    return {name.removeprefix("body."): value for name, value in named.items() if name.startswith("body.")}
