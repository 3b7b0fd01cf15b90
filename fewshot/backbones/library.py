"""Any image model of torchvision or timm, by its name: `backbone=torchvision backbone.model=resnet18`."""

import importlib.util
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot.backbones.base import Body
from fewshot.backbones.layers import batch_norm
from fewshot.backbones.weights import load
from fewshot.errors import UserError, brief
from fewshot.options import Text

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which these models expect
File = Annotated[Text | None, "file of pretrained weights, .pth or .safetensors; null: random ones"]
Statistics = Literal["transductive", "support", "stored"]


class LibraryBody(Body):
    """A classifier without its last linear layer. One copy of its weights serves all tasks.

    Its batch norm takes the statistics of a task's set, or with bn=stored those in the weights' file.
    Dropout, if a model has it, is on in training.
    """

    per_task = False
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        library: Annotated[Literal["torchvision", "timm"], "whose model"],
        model: Annotated[Text, "its name there, as resnet18"],
        weights: File = None,
        bn: Annotated[Statistics, "whose statistics normalise; stored: the weights'"] = "transductive",
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise UserError(f"the models of {library} are for images")
        if importlib.util.find_spec(library) is None:
            raise UserError(f"backbone.library={library} is not installed: pip install {library}")
        if model not in list_models(library):
            raise UserError(f"backbone.model={model}: {library} has no such model")
        self.net = get_model(library, model)
        head = [name for name, module in self.net.named_modules() if isinstance(module, nn.Linear)][-1]
        if weights is not None:
            load(self.net, weights, head)
        replace(self.net, head, nn.Identity())
        self.sets = Sets()
        norms = {name: module for name, module in self.net.named_modules() if isinstance(module, _BatchNorm)}
        self.bn = bn if norms else "none"
        if bn != "stored":
            for name, norm in norms.items():
                replace(self.net, name, by_sets(norm, self.sets))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        try:
            with torch.no_grad():
                self.features = self.train()(torch.zeros(1, 2, *input_shape)).shape[2]
        except Exception as error:  # models reject images in many ways
            size = "×".join(map(str, input_shape))
            raise UserError(
                f"backbone.model={model} takes no images of {size}, or gives no flat features "
                f"({brief(error, 120)}): choose another data.size, as 224, or model"
            ) from error

    def train(self, mode: bool = True) -> "LibraryBody":
        super().train(mode)
        if self.bn == "stored":
            for module in self.net.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        self.sets.tasks, self.sets.reference = len(x), reference
        images = (x.flatten(0, 1).expand(-1, 3, -1, -1) - self.mean) / self.std  # grey ones as RGB
        return self.net(images).unflatten(0, x.shape[:2])


class Sets:
    """How the examples in a model's batch belong together."""

    tasks = 1
    reference: int | None = None


class BatchNormBySets(nn.Module):
    """A library's batch norm, with the statistics of each task's set."""

    def __init__(self, norm: _BatchNorm, sets: Sets) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.sets = norm.weight, norm.bias, norm.eps, sets

    def forward(self, x: Tensor) -> Tensor:
        x_BMO = x.unflatten(0, (self.sets.tasks, -1))
        return batch_norm(x_BMO, self.weight, self.bias, self.sets.reference, self.eps).flatten(0, 1)


def by_sets(norm: _BatchNorm, sets: Sets) -> nn.Module:
    """The layer for `norm`, with the dropout and activation that timm's batch norm includes."""
    after = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    return nn.Sequential(BatchNormBySets(norm, sets), *after)


def replace(net: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    net.get_submodule(parent).register_module(last, by)


def list_models(library: str) -> list[str]:
    if library == "timm":
        import timm

        return timm.list_models()
    from torchvision import models

    return models.list_models(models)


def get_model(library: str, name: str) -> nn.Module:
    """The model with random weights, and its classifier."""
    if library == "timm":
        import timm

        return timm.create_model(name)
    from torchvision import models

    return models.get_model(name, weights=None)
