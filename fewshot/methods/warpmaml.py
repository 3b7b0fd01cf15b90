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
from fewshot.methods.base import Lr, Task, nan_unless_finite, with_gradients
from fewshot.methods.maml import MAML, EvalInnerSteps, FirstOrder, GradClip, InnerLr, InnerSteps


class WarpMAML(MAML):
    """MAML through warp layers: meta-learned layers between the blocks, which the inner loop does not move.

    The inner gradients of the blocks above the first and of the head pass through the warps. After each inner step
    t the query loss L_t is differentiated with respect to the initialisation, through the whole inner loop, and to
    the warps of this step alone, as if those of the steps before were constants; the gradients are summed over t.
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
        last_loss: Annotated[
            bool, "the last step's loss trains the initialisation; false: all, as released"
        ] = True,
    ) -> None:
        super().__init__(task, backbone, lr, inner_lr, inner_steps, eval_inner_steps, first_order, grad_clip)
        self.last_loss = last_loss

    def make_net(self, network: Network) -> nn.Module:
        return Warped(network)

    def adapts(self, name: str) -> bool:
        return not name.startswith(("warps.", "body.0."))

    def losses(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The losses and predictions after the last step, with the gradient that is the sum over the steps."""
        base = [p for name, p in self.net.named_parameters() if not name.startswith("warps.")]
        warps = {name: p for name, p in self.net.named_parameters() if name.startswith("warps.")}
        weights, warp_grads, base_loss = self.start(len(episode.support_x)), [], torch.tensor(0.0)
        for t in range(self.inner_steps):
            fresh: dict[str, Any] = {name: p.detach().requires_grad_() for name, p in warps.items()}
            weights = self.step(weights | fresh, episode.support_x, episode.support_y)
            predictions = self.answer(weights, episode.support_x, episode.query_x)
            losses = nan_unless_finite(self.task_losses(predictions, episode.query_y), predictions)
            warp_grads.append(torch.autograd.grad(losses.sum(), list(fresh.values()), retain_graph=True))
            if t == self.inner_steps - 1 or not self.last_loss:
                base_loss = base_loss + losses.sum()
        grads = [
            *torch.autograd.grad(base_loss, base),
            *(sum(of_steps) for of_steps in zip(*warp_grads, strict=True)),
        ]
        return with_gradients(losses, [*base, *warps.values()], grads), predictions


class Warped(nn.Module):
    """A network with a warp layer on the output of every block but the first.

    A 3×3 convolution that starts at zero (the released code) after a convolutional block, a linear layer that starts
    at the identity after a linear one (with zeros nothing could be learned there).
    """

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
    def __init__(self, width: int, is_conv: bool) -> None:
        super().__init__()
        self.apply_layer = conv if is_conv else linear
        self.weight = nn.Parameter(torch.zeros(width, width, 3, 3) if is_conv else torch.eye(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_layer(x, self.weight, self.bias)
