"""Any image model of torchvision or timm, by its name: `backbone=torchvision backbone.model=resnet18`."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from fewshot.backbones.base import Body, load
from fewshot.backbones.layers import batch_norm
from fewshot.errors import UserError, brief
from fewshot.options import Text

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which most of these models expect


class LibraryBody(Body):
    """A classifier without its last linear layer. One copy of its weights serves all tasks.

    Its batch norm takes the statistics of a task's set, or with bn=stored those in the weights' file.
    Dropout, if a model has it, is on in training.
    """

    per_task = False

    def __init__(
        self,
        input_shape: Sequence[int],
        library: Annotated[Literal["torchvision", "timm"], "whose model"],
        model: Annotated[Text, "its name there, as resnet18"],
        weights: Annotated[Text | None, "file of pretrained weights; null: random ones"] = None,
        bn: Annotated[Literal["transductive", "support", "stored"], "batch norm statistics"] = "transductive",
    ) -> None:
        super().__init__()
        self.net = make_model(library, model)
        modules = dict(self.net.named_modules())
        head = [name for name, module in modules.items() if isinstance(module, nn.Linear)][-1]
        norms = {name: module for name, module in modules.items() if isinstance(module, _BatchNorm)}
        self.net.set_submodule(head, nn.Identity())
        load(self.net, weights, without=f"{head}.")
        self.bn = bn if norms else "none"
        self.sets = SimpleNamespace(tasks=1, reference=None)  # how the examples in a batch belong together
        if bn != "stored":
            for name, norm in norms.items():
                after = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]  # timm's
                self.net.set_submodule(name, nn.Sequential(BatchNormBySets(norm, self.sets), *after))
        expected = getattr(self.net, "pretrained_cfg", {})  # timm's
        mean, std = (torch.tensor(expected.get(key, of)) for key, of in (("mean", MEAN), ("std", STD)))
        self.mean = nn.Buffer(mean.view(3, 1, 1), persistent=False)
        self.std = nn.Buffer(std.view(3, 1, 1), persistent=False)
        try:
            with torch.no_grad():
                self.features = self.train()(torch.zeros(1, 2, *input_shape)).shape[2]
        except Exception as error:  # models reject images in many ways
            size = "×".join(map(str, input_shape))
            why = f"takes no inputs of {size}, or gives no flat features ({brief(error, 120)})"
            raise UserError(f"backbone.model={model} {why}: choose another data.size, as 224") from error

    def train(self, mode: bool = True) -> "LibraryBody":
        super().train(mode)
        for module in self.net.modules():
            if isinstance(module, _BatchNorm):  # with bn=stored
                module.eval()
        return self

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        self.sets.tasks, self.sets.reference = len(x), reference
        images = (x.flatten(0, 1).expand(-1, 3, -1, -1) - self.mean) / self.std  # grey ones as RGB
        return self.net(images).unflatten(0, x.shape[:2])


class BatchNormBySets(nn.Module):
    """A library's batch norm, with the statistics of each task's set."""

    def __init__(self, norm: _BatchNorm, sets: SimpleNamespace) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.sets = norm.weight, norm.bias, norm.eps, sets

    def forward(self, x: Tensor) -> Tensor:
        x_BMO = x.unflatten(0, (self.sets.tasks, -1))
        return batch_norm(x_BMO, self.weight, self.bias, self.sets.reference, self.eps).flatten(0, 1)


def make_model(library: str, name: str) -> nn.Module:
    """A library's model with random weights; UserError where it has none of that name."""
    make, known = models.get_model, models.list_models(models)
    if library == "timm":
        import timm

        make, known = timm.create_model, timm.list_models()
    if name not in known:
        raise UserError(f"backbone.model={name}: {library} has no such model")
    return make(name)
