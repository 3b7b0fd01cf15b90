"""MAML (Finn et al. 2017) and, with `method.adapt_head_only=true`, ANIL (Raghu et al. 2020)."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fewshot.backbones import make_body
from fewshot.backbones.base import Body, Network
from fewshot.backbones.task_weight import TaskWeight
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.methods.per_task import Weight, Weights, copies, functional_call, leaf
from fewshot.options import Few, Positive

InnerLr = Annotated[Positive, "step size of the inner loop"]
InnerSteps = Annotated[Few, "inner steps in training"]
EvalInnerSteps = Annotated[Few, "inner steps in validation and test"]
FirstOrder = Annotated[bool, "treat inner gradients as constants in the meta-gradient"]
GradClip = Annotated[Positive | None, "clip each element of the inner gradients and of the meta-gradient"]
ClipEach = Annotated[bool, "clip the meta-gradient after each task, as released; false: the sum"]
HeadOnly = Annotated[bool, "adapt only the head (ANIL)"]


class MAML(MetaLearner):
    """Learns an initialisation θ from which a few gradient steps on the support set solve a task.

    Algorithm 2 of the paper: θ' = θ - α ∇L_support(θ), repeated; θ learns from the gradient of L_query(θ').
    Each task has its own copy of all weights, those of batch norm too.
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
        grad_clip_each: ClipEach = False,
        adapt_head_only: HeadOnly = False,
    ) -> None:
        super().__init__(task, lr)
        self.net = self.make_net(Network(make_body(task.input_shape, backbone), task.outputs))
        self.inner_lr, self.inner_steps, self.eval_inner_steps = inner_lr, inner_steps, eval_inner_steps
        self.first_order, self.grad_clip, self.grad_clip_each = first_order, grad_clip, grad_clip_each
        self.adapt_head_only = adapt_head_only
        if not self.body.per_task and not (adapt_head_only and not self.clips_each_task):
            raise UserError(
                f"{type(self.body).__name__} has one copy of its weights for all tasks: choose another "
                "backbone, or adapt_head_only=true with grad_clip_each=false"
            )

    @property
    def body(self) -> Body:
        return self.net.body  # type: ignore[return-value]

    @property
    def clips_each_task(self) -> bool:
        return self.grad_clip_each and self.grad_clip is not None

    @property
    def repeated(self) -> str | None:  # type: ignore[override]
        """The inner loop, where it consists of many small operations."""
        large = [name for name, p in self.net.named_parameters() if self.uses_outer_products(name, p)]
        return "inner_loop" if self.body.flat and not large else None

    def make_net(self, network: Network) -> nn.Module:
        """The network to adapt, `(x, reference) -> predictions`; subclasses add layers to the given one."""
        return network

    def adapts(self, name: str) -> bool:
        """Whether the inner loop adapts this parameter of `net`; the others are only meta-learned."""
        return not self.adapt_head_only or name.startswith("head.")

    def step_size(self, name: str) -> float | Tensor:
        """Step size of the inner loop for this parameter of `net`; Meta-SGD (Li et al. 2017) learns it."""
        return self.inner_lr

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        return self.inner_loop(self.initial_weights(len(support_x)), support_x, support_y, query_x)

    def inner_loop(self, weights: Weights, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Predictions for the queries after the inner steps."""
        for _ in range(self.inner_steps if self.training else self.eval_inner_steps):
            weights = self.inner_step(weights, support_x, support_y)
        return self.predict_queries(weights, support_x, query_x)

    def initial_weights(self, tasks: int) -> Weights:
        """The initialisation, one copy per task."""
        weights: Weights = {}
        clip = self.grad_clip if self.clips_each_task else None
        for name, parameter in self.net.named_parameters():
            if self.is_per_task(name):
                products = self.uses_outer_products(name, parameter)
                weights[name] = TaskWeight(parameter) if products else copies(parameter, tasks, clip)
        return weights

    def is_per_task(self, name: str) -> bool:
        return self.clips_each_task or self.adapts(name)

    def uses_outer_products(self, name: str, parameter: Tensor) -> bool:
        """Whether steps are kept as outer products: a linear layer's weight, unclipped, one step size."""
        size = self.step_size(name)
        one_size = not isinstance(size, Tensor) or size.dim() == 0
        is_linear = self.body.flat and parameter.dim() == 2 and name.endswith(".weight")
        return is_linear and self.grad_clip is None and one_size

    def inner_step(self, weights: Weights, support_x: Tensor, support_y: Tensor) -> Weights:
        """The weights after one gradient step on the support loss."""
        training = torch.is_grad_enabled()
        if not training:  # validation and test keep no graph but this step's
            weights = {name: leaf(weight) for name, weight in weights.items()}
        names = [name for name in weights if self.adapts(name)]

        def support_loss(changed: Weights) -> Tensor:
            predictions = self.call_net(weights | changed, support_x)
            return self.task_losses(predictions, support_y).sum()  # each task's gradient: no weight is shared

        if torch.compiler.is_compiling():  # torch compiles second-order gradients of functions only
            by_name = torch.func.grad(support_loss)({name: weights[name] for name in names})
            grads = tuple(by_name[name].detach() if self.first_order else by_name[name] for name in names)
        else:
            with torch.enable_grad():
                loss = support_loss({})
                inputs = [w.seen[1] if isinstance(w := weights[name], TaskWeight) else w for name in names]
                create_graph = training and not self.first_order
                grads = torch.autograd.grad(loss, inputs, create_graph=create_graph)
        if self.grad_clip is not None:
            clip = torch.clamp if training else torch.clamp_
            grads = tuple(clip(grad, -self.grad_clip, self.grad_clip) for grad in grads)
        return weights | {n: self.updated(n, weights[n], g) for n, g in zip(names, grads, strict=True)}

    def updated(self, name: str, weight: Weight, grad: Tensor) -> Weight:
        """A weight after a gradient step; for a `TaskWeight`, `grad` is that of the layer's outputs."""
        size = self.step_size(name)
        if isinstance(weight, TaskWeight):
            x, _ = weight.seen  # the weight's gradient is the sum of the outer products of `grad` and x
            return weight.plus(-size * grad, x.detach() if self.first_order else x)
        return weight - size * grad if isinstance(size, Tensor) else torch.sub(weight, grad, alpha=size)

    def predict_queries(self, weights: Weights, support_x: Tensor, query_x: Tensor) -> Tensor:
        return query_pass(partial(self.call_net, weights), self.body.bn, support_x, query_x)

    def call_net(self, weights: Weights, x: Tensor, reference: int | None = None) -> Tensor:
        """The net's predictions with the given weights."""
        per_task = [name for name in weights if self.is_per_task(name)]
        return functional_call(self.net, weights, per_task, x, reference)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.grad_clip is not None:
            nn.utils.clip_grad_value_(self.parameters(), self.grad_clip)
