"""A convolution's weight as OP-LSTM moves it, a kernel for each task: the counterpart of `TaskWeight`.

Shape suffixes: B tasks, M examples, I inputs, O outputs, K and L kernel, H and W pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from fewshot.backbones.layers import conv, fold_tasks, unfold_tasks


class TaskKernel:
    """`kernel` is (O, I, K, L), the same for all tasks, or (B, O, I, K, L)."""

    def __init__(self, kernel: Tensor) -> None:
        self.kernel = kernel

    def linear(self, x_BMIHW: Tensor, bias_O: Tensor) -> Tensor:
        """The convolution, (B, M, O, H, W)."""
        return conv(
            x_BMIHW, self.kernel, bias_O.expand(len(x_BMIHW), -1) if self.kernel.dim() == 5 else bias_O
        )

    def transposed(self, h_BMOHW: Tensor) -> Tensor:
        """The transposed convolution: the message from the outputs to the inputs, (B, M, I, H, W)."""
        tasks, kernel = len(h_BMOHW), self.materialize(len(h_BMOHW)).flatten(0, 1)
        padding = [size // 2 for size in kernel.shape[-2:]]
        return unfold_tasks(
            F.conv_transpose2d(fold_tasks(h_BMOHW), kernel, padding=padding, groups=tasks), tasks
        )

    def product(self, h_BMOHW: Tensor, a_BMIHW: Tensor) -> Tensor:
        """Σ over examples and positions p of h(p) patch(p)ᵀ, (B, O, I, K, L); patch(p) is what p reads.

        It is the gradient of the kernel if h is that of the outputs.
        """
        shape = (h_BMOHW.shape[0] * h_BMOHW.shape[2], *self.kernel.shape[-3:])
        padding = [n // 2 for n in shape[-2:]]
        h, a = (fold_tasks(x.to(self.kernel.dtype)) for x in (h_BMOHW, a_BMIHW))  # autocast: other dtypes
        return conv2d_weight(a, shape, h, padding=padding, groups=len(h_BMOHW)).unflatten(
            0, (len(h_BMOHW), -1)
        )

    def square(self, h_BMOHW: Tensor, a_BMIHW: Tensor) -> Tensor:
        """The squared norm of each task's product, (B,)."""
        return self.product(h_BMOHW, a_BMIHW).square().flatten(1).sum(1)

    def unit(self, h_BMOHW: Tensor, a_BMIHW: Tensor) -> tuple[Tensor, Tensor]:
        """h and a such that the product of each example alone has norm 1; zero stays zero."""
        alone = self.square(h_BMOHW.flatten(0, 1).unsqueeze(1), a_BMIHW.flatten(0, 1).unsqueeze(1))
        norms = alone.clamp_min(1e-24).sqrt().view(*h_BMOHW.shape[:2], 1, 1, 1)
        return h_BMOHW / norms, a_BMIHW

    def plus(self, h_BMOHW: Tensor, a_BMIHW: Tensor, scale: Any) -> "TaskKernel":
        """The kernels moved by `scale` times the product; `scale` is a number, or (B, 1, 1)."""
        step = self.product(h_BMOHW, a_BMIHW)
        return TaskKernel(self.kernel + (scale * step.flatten(2)).view_as(step))

    def materialize(self, tasks: int) -> Tensor:
        """The kernels themselves, (B, O, I, K, L)."""
        return self.kernel.expand(tasks, *self.kernel.shape[-4:])


def winners(u_BMOHW: Tensor) -> Tensor:
    """Of each window that `max_pool` takes together, the number of the largest pixel, (B, M, O, windows)."""
    size = (min(u_BMOHW.shape[3], 2), 2)
    _, index = F.max_pool2d(u_BMOHW.flatten(0, 1), size, return_indices=True)
    return index.flatten(2).unflatten(0, u_BMOHW.shape[:2])


def pick(u: Tensor, won_BMOP: Tensor | None) -> Tensor:
    """The pixels that won, (B, M, O, windows); without pooling `u` itself."""
    return u if won_BMOP is None else u.flatten(3).gather(3, won_BMOP)


def unpool(h: Tensor, won_BMOP: Tensor, like: Tensor) -> Tensor:
    """The inverse of `pick`: zeros as `like`, and `h` at the pixels that won."""
    return torch.zeros_like(like).flatten(3).scatter(3, won_BMOP, h.reshape(won_BMOP.shape)).view_as(like)


def spread(h: Tensor, _: Tensor, like: Tensor) -> Tensor:
    """As `unpool`, but a window's `h` is shared by all its pixels alike."""
    height, width = like.shape[3:]
    size = (min(height, 2), 2)
    h = h.reshape(*like.shape[:3], height // size[0], width // size[1]) / (size[0] * size[1])
    h = h.repeat_interleave(size[0], 3).repeat_interleave(size[1], 4)
    return F.pad(h, (0, width - h.shape[4], 0, height - h.shape[3]))
