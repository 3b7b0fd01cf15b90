"""Warp-MAML (Flennerhag et al. 2020): `python train.py method=warpmaml`."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fewshot.backbones.base import Network
from fewshot.backbones.blocks import Blocks
from fewshot.backbones.layers import conv, linear
from fewshot.episodes import Episode
from fewshot.errors import UserError
from fewshot.methods.base import Lr, Task
from fewshot.methods.losses import nan_unless_finite, with_gradients
from fewshot.methods.maml import MAML, EvalInnerSteps, FirstOrder, GradClip, InnerLr, InnerSteps

LastLoss = Annotated[bool, "the initialisation learns from the last loss; false: from all, as released"]


class WarpMAML(MAML):
    """MAML with meta-learned warp layers between the blocks, which the inner loop does not adapt.

    After inner step t the query loss L_t is differentiated with respect to the initialisation, through all
    steps up to t, and with respect to the warps of step t alone: those of earlier steps are constants. The
    gradients are summed over t.
    """

    repeated = None
    replayable = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        inner_lr: InnerLr,
        inner_steps: InnerSteps,
        eval_inner_steps: EvalInnerSteps,
        first_order: FirstOrder = False,
        grad_clip: GradClip = None,
        last_loss: LastLoss = True,
    ) -> None:
        super().__init__(task, backbone, lr, inner_lr, inner_steps, eval_inner_steps, first_order, grad_clip)
        self.last_loss = last_loss

    def make_net(self, network: Network) -> nn.Module:
        return WarpedNetwork(network)

    def adapts(self, name: str) -> bool:
        return not name.startswith(("warps.", "body.0."))

    def losses(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Losses and predictions after the last step, with the gradients summed over the steps."""
        named = list(self.net.named_parameters())
        base = [p for name, p in named if not name.startswith("warps.")]
        warps = {name: p for name, p in named if name.startswith("warps.")}
        weights = self.initial_weights(len(episode.support_x))
        base_loss, warp_grads = torch.tensor(0.0), []
        for t in range(self.inner_steps):
            step_warps: dict[str, Any] = {name: p.detach().requires_grad_() for name, p in warps.items()}
            weights = self.inner_step(weights | step_warps, episode.support_x, episode.support_y)
            predictions = self.predict_queries(weights, episode.support_x, episode.query_x)
            losses = nan_unless_finite(self.task_losses(predictions, episode.query_y), predictions)
            grads = torch.autograd.grad(losses.sum(), list(step_warps.values()), retain_graph=True)
            warp_grads.append(grads)
            if t == self.inner_steps - 1 or not self.last_loss:
                base_loss = base_loss + losses.sum()
        base_grads = torch.autograd.grad(base_loss, base)
        summed = [sum(grads) for grads in zip(*warp_grads, strict=True)]
        return with_gradients(losses, [*base, *warps.values()], [*base_grads, *summed]), predictions


class WarpedNetwork(nn.Module):
    """A network with a warp layer on the output of every block but the first."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        if not isinstance(network.body, Blocks) or len(network.body) < 2:
            raise UserError(
                "Warp-MAML's warps lie between blocks: choose backbone=conv4, fc or mlp of two or more"
            )
        self.body, self.head = network.body, network.head
        self.warps = nn.ModuleList(Warp(len(block.bias), block.is_conv) for block in list(network.body)[1:])

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        first, *others = self.body
        x = first(self.body.shape(x), reference)
        for block, warp in zip(others, self.warps, strict=True):
            x = warp(block(x, reference))
        return linear(x.flatten(2), self.head.weight, self.head.bias)


class Warp(nn.Module):
    """A 3×3 convolution, initially zero as released, or a matrix, initially the identity: from zeros it could
    not learn."""

    def __init__(self, width: int, is_conv: bool) -> None:
        super().__init__()
        self.layer = conv if is_conv else linear
        self.weight = nn.Parameter(torch.zeros(width, width, 3, 3) if is_conv else torch.eye(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.weight, self.bias)
