"""MAML (Finn et al. 2017) and, with `method.adapt_head_only=true`, ANIL (Raghu et al. 2020)."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fewshot.backbones import make_body
from fewshot.backbones.base import Body, Network
from fewshot.backbones.task_weight import TaskWeight, Weights, copies, functional_call, leaf
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.options import Few, Positive


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
        inner_lr: Annotated[Positive, "step size of the inner loop"],
        inner_steps: Annotated[Few, "inner steps in training"],
        eval_inner_steps: Annotated[Few, "inner steps in validation and test"],
        first_order: Annotated[bool, "treat inner gradients as constants in the meta-gradient"] = False,
        grad_clip: Annotated[Positive | None, "clip elements of the inner and of the meta-gradient"] = None,
        grad_clip_each: Annotated[bool, "clip the meta-gradient after each task; false: the sum"] = False,
        adapt_head_only: Annotated[bool, "adapt only the head (ANIL)"] = False,
    ) -> None:
        super().__init__(task, lr)
        self.net = self.make_net(make_body(task.input_shape, backbone))
        self.inner_lr, self.inner_steps, self.eval_inner_steps = inner_lr, inner_steps, eval_inner_steps
        self.first_order, self.grad_clip, self.grad_clip_each = first_order, grad_clip, grad_clip_each
        self.adapt_head_only = adapt_head_only
        # a loop of many small operations; without clipping, steps on linear layers are kept as products
        self.repeated = "inner_loop" if self.body.flat and grad_clip is not None else None
        if not self.body.per_task and (self.clip_of_each is not None or not adapt_head_only):
            alone = "has one copy of its weights for all tasks"
            raise UserError(f"this backbone {alone}: adapt_head_only=true with grad_clip_each=false takes it")

    @property
    def body(self) -> Body:
        return self.net.body

    @property
    def clip_of_each(self) -> float | None:
        """Where the meta-gradient is clipped after each task: then all weights have copies."""
        return self.grad_clip if self.grad_clip_each else None

    def make_net(self, body: Body) -> Network:
        """The network to adapt, `(x, reference) -> predictions`."""
        return Network(body, self.task.outputs)

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
        for name, parameter in self.net.named_parameters():
            if self.uses_outer_products(name, parameter) and self.adapts(name):
                weights[name] = TaskWeight(parameter)
            elif self.adapts(name) or self.clip_of_each is not None:
                weights[name] = copies(parameter, tasks, self.clip_of_each)
        return weights

    def uses_outer_products(self, name: str, parameter: Tensor) -> bool:
        """Whether steps are kept as outer products: a linear layer's weight, unclipped, one step size."""
        is_linear = self.body.flat and parameter.dim() == 2 and name.endswith(".weight")
        return is_linear and self.grad_clip is None and torch.as_tensor(self.step_size(name)).dim() == 0

    def inner_step(self, weights: Weights, support_x: Tensor, support_y: Tensor) -> Weights:
        """The weights after one gradient step on the support loss."""
        training = torch.is_grad_enabled()
        if not training:  # validation and test keep no graph but this step's
            weights = {name: leaf(weight) for name, weight in weights.items()}
        names = [name for name in weights if self.adapts(name)]

        def support_loss(changed: Weights) -> Tensor:
            predictions = functional_call(self.net, weights | changed, support_x)
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

    def updated(self, name: str, weight: Tensor | TaskWeight, grad: Tensor) -> Tensor | TaskWeight:
        """A weight after a gradient step; for a `TaskWeight`, `grad` is that of the layer's outputs."""
        size = self.step_size(name)
        if isinstance(weight, TaskWeight):
            x, _ = weight.seen  # the weight's gradient is the sum of the outer products of `grad` and x
            return weight.plus(-size * grad, x.detach() if self.first_order else x)
        return weight - size * grad if isinstance(size, Tensor) else torch.sub(weight, grad, alpha=size)

    def predict_queries(self, weights: Weights, support_x: Tensor, query_x: Tensor) -> Tensor:
        return query_pass(partial(functional_call, self.net, weights), self.body.bn, support_x, query_x)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.grad_clip is not None:
            nn.utils.clip_grad_value_(self.parameters(), self.grad_clip)
