"""The interface of backbones, their pretrained weights, and a backbone with a linear head."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn

from fewshot.backbones.layers import linear
from fewshot.errors import UserError, brief
from fewshot.options import Text, Validated

Weights = Annotated[Text | None, "file of pretrained weights, or a run's folder; null: random ones"]


class Body(Validated, nn.Module):
    """The base of backbones: `body(x, reference=None)`, (B, M, *input) → (B, M, features).

    For `reference` see `layers.batch_norm`. A backbone's settings are the annotated parameters of its
    constructor after `input_shape`.
    """

    features: int  # size of the output
    bn = "none"  # "transductive": each set has its own statistics; "support": both have the support set's
    flat = False  # whether it takes flat inputs, as linear layers do, and no images
    per_task = True  # whether its weights may have a leading task axis, so that a learner can adapt them

    def as_input(self, x: Tensor) -> Tensor:
        """Examples as the first layer takes them."""
        return x.flatten(2) if self.flat else x


def make_body(input_shape: Sequence[int], backbone: Mapping[str, Any]) -> Body:
    """The backbone that settings describe, for inputs of one shape.

    `backbone` holds the options of a class, and as `_target_` its dotted name; without it, those of `Blocks`:
    `{"layer": "linear", "widths": [64, 64]}`. Settings may come from a checkpoint: a class outside this
    package has to be imported already, else UserError.
    """
    options = {key: value for key, value in backbone.items() if key not in ("name", "_target_")}
    target = backbone.get("_target_", "fewshot.backbones.blocks.Blocks")
    module = target.rpartition(".")[0]
    if not module.startswith("fewshot.backbones.") and module not in sys.modules:
        raise UserError(f"backbone {target}: import {module} first")
    return get_class(target)(input_shape, **options)


class Network(nn.Module):
    """A body and a linear head, (B, M, *input) → (B, M, outputs)."""

    def __init__(self, body: Body, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.features, outputs)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return linear(self.body(x, reference), self.head.weight, self.head.bias)


def load(net: nn.Module, weights: str | None, without: str | tuple[()] = ()) -> None:
    """Loads weights, if any: a file, .pt, .pth, .ckpt or .safetensors, or a run's folder; or UserError.

    Nothing in the file is executed. Names that begin with `without` are left out.
    """
    if weights is None:
        return
    try:
        path = Path(weights)
        state = read(path / "best.ckpt" if path.is_dir() else path)
        net.load_state_dict({name: w for name, w in state.items() if not name.startswith(without)})
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
