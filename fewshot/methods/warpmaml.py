"""Warp-MAML (Flennerhag et al. 2020): `python train.py method=warpmaml`."""

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fewshot.backbones.base import Body, Network
from fewshot.backbones.blocks import Blocks
from fewshot.backbones.layers import linear
from fewshot.episodes import Episode
from fewshot.errors import UserError
from fewshot.methods.losses import nan_unless_finite, with_gradients
from fewshot.methods.maml import MAML


class WarpMAML(MAML):
    """MAML with meta-learned warp layers φ between the blocks, which the inner loop does not adapt.

    Inner step t is θ_t = θ_(t-1) - α ∇L_support(θ_(t-1), φ_t), where all φ_t equal φ. The initialisation θ_0
    learns from ∂/∂θ_0 of the query loss L(θ_T, φ_T), or of Σ_t L(θ_t, φ_t) as released; the warps learn from
    Σ_t ∂/∂φ_t L(θ_t, φ_t), in which those of earlier steps are constants.
    """

    def __init__(
        self,
        *args: Any,
        last_loss: Annotated[bool, "θ learns from the last loss; false: from all, as released"] = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.last_loss = last_loss

    def make_net(self, body: Body) -> Network:
        return WarpedNetwork(body, self.task.outputs)

    def adapts(self, name: str) -> bool:
        return not name.startswith(("warps.", "body.0."))

    def losses(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Losses and predictions after the last step, with the gradients summed over the steps."""
        warps = {name: p for name, p in self.net.named_parameters() if name.startswith("warps.")}
        base = [p for name, p in self.net.named_parameters() if name not in warps]
        weights = self.initial_weights(len(episode.support_x))
        base_loss, warp_grads = torch.tensor(0.0), []
        for t in range(self.inner_steps):
            step_warps: dict[str, Any] = {name: p.detach().requires_grad_() for name, p in warps.items()}
            weights = self.inner_step(weights | step_warps, episode.support_x, episode.support_y)
            predictions = self.predict_queries(weights, episode.support_x, episode.query_x)
            losses = nan_unless_finite(self.task_losses(predictions, episode.query_y), predictions)
            warp_grads.append(torch.autograd.grad(losses.sum(), [*step_warps.values()], retain_graph=True))
            if t == self.inner_steps - 1 or not self.last_loss:
                base_loss = base_loss + losses.sum()
        base_grads = torch.autograd.grad(base_loss, base)
        summed = [sum(grads) for grads in zip(*warp_grads, strict=True)]
        return with_gradients(losses, [*base, *warps.values()], [*base_grads, *summed]), predictions


class WarpedNetwork(Network):
    """A network with a warp layer on the output of every block but the first.

    A warp is a 3×3 convolution, zero at first as released, or a matrix, the identity: zeros could not learn.
    """

    body: Blocks

    def __init__(self, body: Body, outputs: int) -> None:
        if not isinstance(body, Blocks) or len(body) < 2:
            raise UserError("Warp-MAML's warps lie between blocks: choose backbone=conv4, fc or mlp")
        super().__init__(body, outputs)
        self.warps = nn.ModuleList()
        for block in list(body)[1:]:
            width = len(block.bias)
            weight = torch.zeros(width, width, 3, 3) if block.is_conv else torch.eye(width)
            self.warps.append(nn.ParameterDict([("weight", weight), ("bias", torch.zeros(width))]))

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        first, *others = self.body
        x = first(self.body.as_input(x), reference)
        warps: list[Any] = list(self.warps)
        for block, warp in zip(others, warps, strict=True):
            x = block.layer(block(x, reference), warp.weight, warp.bias)
        return linear(x.flatten(2), self.head.weight, self.head.bias)
