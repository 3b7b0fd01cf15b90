"""The interface of backbones: flat features of examples, and whose statistics batch norm uses."""

from typing import Annotated, Any

from torch import Tensor, nn

from fewshot.backbones.layers import linear
from fewshot.options import Text, validated

Weights = Annotated[Text | None, "file of pretrained weights, or a run's folder; null: random ones"]


class Body(nn.Module):
    """The base of backbones: `(B, M, *input)` → features `(B, M, features)`.

    A backbone's settings are the annotated parameters of its constructor after `input_shape`.

    Attributes:
        features: size of the output.
        bn: "transductive", support and query set normalised each by its own statistics; "support", both by
        the support
            set's; "none", no example depends on another.
        flat: whether it takes flat inputs, as a network of linear layers does, and no images.
        per_task: whether its weights may carry a leading task axis, so that a learner can adapt them.

    Raises:
        UserError: an argument is not what its annotation allows, or does not fit the inputs.
    """

    features: int
    bn = "none"
    flat = False
    per_task = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = validated(cls.__init__, super(cls, cls).__init__)  # type: ignore[method-assign]

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """Features (B, M, features) of examples (B, M, *input); for `reference` see `layers.batch_norm`."""
        raise NotImplementedError


class Network(nn.Module):
    """A body and a linear head, (B, M, *input) → (B, M, outputs)."""

    def __init__(self, body: Body, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.features, outputs)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return linear(self.body(x, reference), self.head.weight, self.head.bias)
