"""MAML (Finn et al. 2017): `python train.py method=maml`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fewshot.backbones.body import Network
from fewshot.methods.base import MetaLearner, Task, make_body, query_pass


class MAML(MetaLearner):
    """Learns an initialisation from which a few gradient steps on the support set solve a task.

    All weights, biases and batch-norm weights are adapted, each task's copy along a leading task axis.

    Args:
        inner_lr: step size of the inner loop.
        steps, eval_steps: inner steps in training, and in validation and test.
        first_order: treat the inner gradients as constants.
        clamp: bound on each element of the inner gradients and of the meta-gradient, or None.
        clamp_each: bound the meta-gradient after every task's contribution to the sum (the released code) instead
            of once.
    """

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: float,
        inner_lr: float,
        steps: int,
        eval_steps: int,
        first_order: bool,
        clamp: float | None,
        clamp_each: bool,
    ) -> None:
        super().__init__(task, lr)
        self.net = Network(make_body(task, backbone), task.outputs)
        self.inner_lr, self.steps, self.eval_steps = inner_lr, steps, eval_steps
        self.first_order, self.clamp, self.clamp_each = first_order, clamp, clamp_each

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        weights = self.adapt(support_x, support_y)

        def adapted(x: Tensor, reference: int | None = None) -> Tensor:
            return functional_call(self.net, weights, (x, reference))

        return query_pass(adapted, self.net.body.bn, support_x, query_x)

    def adapt(self, support_x: Tensor, support_y: Tensor) -> dict[str, Tensor]:
        """The weights of each task after the inner loop: every tensor with a leading task axis of size B."""
        outer = torch.is_grad_enabled()
        with torch.enable_grad():  # validation and test run without a graph; the inner gradients need one a step
            weights = {name: self.per_task(p, len(support_x)) for name, p in self.net.named_parameters()}
            for _ in range(self.steps if self.training else self.eval_steps):
                predictions = functional_call(self.net, weights, (support_x,))
                loss = self.task_losses(predictions, support_y).sum()  # tasks share no weight: the sum separates
                create_graph = outer and not self.first_order
                grads = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
                if self.clamp is not None:
                    grads = tuple(g.clamp(-self.clamp, self.clamp) for g in grads)
                stepped = {n: w - self.inner_lr * g for (n, w), g in zip(weights.items(), grads, strict=True)}
                weights = stepped if outer else {n: w.detach().requires_grad_() for n, w in stepped.items()}
        return weights

    def per_task(self, parameter: Tensor, tasks: int) -> Tensor:
        """`tasks` copies of a parameter along a new first axis, through which the meta-gradient is clamped."""
        copies = parameter.expand(tasks, *parameter.shape)
        if self.clamp is not None:
            copies.register_hook(self.clamped_sum)
        return copies.view_as(copies)  # inner gradients end here, below the hook

    def clamped_sum(self, grads: Tensor) -> Tensor:
        """Each task's meta-gradient (B, ...) → the clamped sum in the first row and zeros below."""
        assert self.clamp is not None
        total = torch.zeros_like(grads[0])
        for part in grads if self.clamp_each else [grads.sum(0)]:
            total = (total + part).clamp(-self.clamp, self.clamp)
        return torch.cat([total[None], torch.zeros_like(grads[1:])])
