"""MAML (Finn et al. 2017), and ANIL (Raghu et al. 2020) by `method.adapt_head_only=true`: `python train.py method=maml`."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fewshot.backbones import make_body
from fewshot.backbones.base import Body, Network
from fewshot.backbones.layers import loop_over_tasks
from fewshot.backbones.task_weight import TaskWeight, swap_parameters
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.options import Few, Positive

InnerLr = Annotated[Positive, "step size of the inner loop"]
InnerSteps = Annotated[Few, "inner steps in training"]
EvalInnerSteps = Annotated[Few, "inner steps in validation and test"]
FirstOrder = Annotated[bool, "the inner gradients are constants to the meta-gradient"]
GradClip = Annotated[Positive | None, "bound on each element of the inner gradients and of the meta-gradient"]
Weights = dict[str, Tensor | TaskWeight]  # by name; those that are adapted are a task's own


class MAML(MetaLearner):
    """Learns an initialisation from which a few gradient steps on the support set solve a task.

    All weights, biases and batch-norm weights are adapted, each task's copy along a leading task axis.
    """

    steps_setting = "eval_inner_steps"
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
        grad_clip_each: Annotated[
            bool, "the meta-gradient is clamped after each task, as released; false: once"
        ] = False,
        adapt_head_only: Annotated[bool, "the head alone is adapted (ANIL)"] = False,
    ) -> None:
        super().__init__(task, lr)
        self.net = self.make_net(Network(make_body(task.input_shape, backbone), task.outputs))
        self.inner_lr, self.inner_steps, self.eval_inner_steps = inner_lr, inner_steps, eval_inner_steps
        self.first_order, self.grad_clip, self.grad_clip_each = first_order, grad_clip, grad_clip_each
        self.adapt_head_only = adapt_head_only
        if not self.body.per_task and not (adapt_head_only and not (grad_clip and grad_clip_each)):
            raise UserError(
                f"{type(self.body).__name__} has one copy of its weights for all tasks: choose another backbone, or "
                "adapt_head_only=true with grad_clip_each=false"
            )

    @property
    def repeated(self) -> str | None:  # type: ignore[override]
        """The inner loop, where it is many small operations."""
        large = not self.body.flat or any(
            self.by_products(name, p) for name, p in self.net.named_parameters()
        )
        return None if large else "inner_loop"

    def make_net(self, network: Network) -> nn.Module:
        """The network that is adapted, `(x, reference) -> predictions`, from the body and head."""
        return network

    def adapts(self, name: str) -> bool:
        """Whether the inner loop moves the parameter of `net` of this name; the others are meta-learned only."""
        return not self.adapt_head_only or name.startswith("head.")

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        return self.inner_loop(self.start(len(support_x)), support_x, support_y, query_x)

    def inner_loop(self, weights: Weights, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Predictions for the queries by weights that the support set has moved."""
        for _ in range(self.inner_steps if self.training else self.eval_inner_steps):
            weights = self.step(weights, support_x, support_y)
        return self.answer(weights, support_x, query_x)

    def start(self, tasks: int) -> Weights:
        """The initialisation, a copy for each of `tasks` tasks."""
        named = [(name, p) for name, p in self.net.named_parameters() if self.has_copies(name)]
        return {
            name: TaskWeight(p) if self.by_products(name, p) else self.per_task(p, tasks) for name, p in named
        }

    def has_copies(self, name: str) -> bool:
        """Whether each task has a parameter of its own of this name."""
        return self.clamps_each or self.adapts(name)

    def by_products(self, name: str, parameter: Tensor) -> bool:
        """Whether a step on a parameter is a sum of outer products: of a linear layer, by one step size, unclamped."""
        size = self.step_size(name)
        one = not isinstance(size, Tensor) or size.dim() == 0
        layer = self.body.flat and parameter.dim() == 2 and name.endswith(".weight")
        return layer and self.grad_clip is None and one

    def step(self, weights: Weights, support_x: Tensor, support_y: Tensor) -> Weights:
        """The weights after one more inner step."""
        outer = torch.is_grad_enabled()
        if not outer:  # validation and test keep no graph: only this step's
            weights = {name: leaf(weight) for name, weight in weights.items()}
        names = [name for name in weights if self.adapts(name)]

        def loss(moved: Weights) -> Tensor:
            predictions = self.predicted(weights | moved, support_x)
            return self.task_losses(
                predictions, support_y
            ).sum()  # tasks share no adapted weight: the sum separates

        if torch.compiler.is_compiling():  # of a function alone torch compiles a gradient that has one
            of_each = torch.func.grad(loss)({name: weights[name] for name in names})
            grads = tuple(of_each[name].detach() if self.first_order else of_each[name] for name in names)
        else:
            with torch.enable_grad():
                value = loss({})
                create_graph = outer and not self.first_order
                moved = [w.seen[1] if isinstance(w := weights[name], TaskWeight) else w for name in names]
                grads = torch.autograd.grad(value, moved, create_graph=create_graph)
        if self.grad_clip is not None:
            clamp = torch.clamp if outer else torch.clamp_
            grads = tuple(clamp(g, -self.grad_clip, self.grad_clip) for g in grads)
        return weights | {
            n: self.stepped(weights[n], self.step_size(n), g) for n, g in zip(names, grads, strict=True)
        }

    def stepped(self, weight: Tensor | TaskWeight, size: float | Tensor, grad: Tensor) -> Tensor | TaskWeight:
        """A weight after a gradient step; of a layer's, `grad` is that of its outputs, whose products with the inputs
        are the weight's own."""
        if not isinstance(weight, TaskWeight):
            return weight - size * grad if isinstance(size, Tensor) else torch.sub(weight, grad, alpha=size)
        x, _ = weight.seen
        return weight.plus(-size * grad, x.detach() if self.first_order else x)

    def step_size(self, name: str) -> float | Tensor:
        """Of the inner loop, for the parameter of `net` of this name; Meta-SGD (Li et al. 2017) learns it."""
        return self.inner_lr

    def answer(self, weights: Weights, support_x: Tensor, query_x: Tensor) -> Tensor:
        """Predictions for the queries under adapted weights."""
        return query_pass(partial(self.predicted, weights), self.body.bn, support_x, query_x)

    def predicted(self, weights: Weights, x: Tensor, reference: int | None = None) -> Tensor:
        """What the net makes of examples under each task's weights."""
        if self.body.flat or not loop_over_tasks(x):
            with swap_parameters(self.net, weights):
                return self.net(x, reference)
        own = {name: weight.unbind() for name, weight in weights.items() if self.has_copies(name)}  # type: ignore[union-attr]
        predictions = []
        for number, task in enumerate(x.split(1)):
            with swap_parameters(self.net, weights | {name: copies[number] for name, copies in own.items()}):
                predictions.append(self.net(task, reference))
        return torch.cat(predictions)

    @property
    def body(self) -> Body:
        return self.net.body  # type: ignore[return-value]

    def per_task(self, parameter: Tensor, tasks: int) -> Tensor:
        """`tasks` copies of a parameter along a new first axis.

        In the meta-gradient autograd adds what the copies receive, and the released runs clamp that sum after each
        task. So a hook sees the copies' gradients first, clamps as it adds, and leaves that sum beside zeros.
        """
        copies = parameter.expand(tasks, *parameter.shape)
        if self.clamps_each:
            copies.register_hook(self.clamped_sum)
        return copies.view_as(
            copies
        )  # which the inner loop differentiates: the hook sees none of its gradients

    @property
    def clamps_each(self) -> bool:
        return self.grad_clip_each and self.grad_clip is not None

    def clamped_sum(self, grads: Tensor) -> Tensor:
        """Each task's meta-gradient (B, ...) → the sum, clamped after each, in the first row and zeros below."""
        assert self.grad_clip is not None
        total = torch.zeros_like(grads)
        for part in grads:
            total[0].add_(part).clamp_(-self.grad_clip, self.grad_clip)
        return total

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.grad_clip is not None:
            nn.utils.clip_grad_value_(self.parameters(), self.grad_clip)


def leaf(weight: Tensor | TaskWeight) -> Tensor | TaskWeight:
    """The weight without its graph; a tensor as something to differentiate by."""
    return weight.detach() if isinstance(weight, TaskWeight) else weight.detach().requires_grad_()
