"""MAML (Finn et al. 2017) and, with `method.adapt_head_only=true`, ANIL (Raghu et al. 2020)."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from fewshot.backbones.base import Body, Network, make_body
from fewshot.backbones.task_weight import ClippedCopies, TaskWeight, Weights, functional_call, gradients
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.options import Few, Positive


class MAML(MetaLearner):
    """Learns an initialisation θ from which a few gradient steps on the support set solve a task.

    Algorithm 2 of the paper: θ' = θ - α ∇L_support(θ), repeated; θ learns from the gradient of L_query(θ').
    Each task has its own copy of all weights, those of batch norm too.
    """

    pure = True

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
        self.first_order, self.adapt_head_only, self.grad_clip = first_order, adapt_head_only, grad_clip
        self.clip_of_each = grad_clip if grad_clip_each else None  # with it all weights have copies
        if not self.net.body.per_task and (self.clip_of_each is not None or not adapt_head_only):
            alone = "has one copy of its weights for all tasks"
            raise UserError(f"this backbone {alone}: adapt_head_only=true with grad_clip_each=false takes it")

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
        return self.predict_queries(self.adapt(support_x, support_y), support_x, query_x)

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Weights:
        """The weights after the inner loop."""
        weights = self.initial_weights(len(support_x))
        for _ in range(self.inner_steps if self.training else self.eval_inner_steps):
            weights = self.inner_step(weights, support_x, support_y)
        return weights

    def initial_weights(self, tasks: int) -> Weights:
        """The initialisation, one copy per task."""
        weights: Weights = {}
        for name, parameter in self.net.named_parameters():
            if self.uses_outer_products(name, parameter) and self.adapts(name):
                weights[name] = TaskWeight(parameter)
            elif self.adapts(name) or self.clip_of_each is not None:
                copies, clip = parameter.expand(tasks, *parameter.shape), self.clip_of_each
                weights[name] = copies if clip is None else ClippedCopies.apply(parameter, tasks, clip)
        return weights

    def uses_outer_products(self, name: str, parameter: Tensor) -> bool:
        """Whether steps are kept as outer products: a linear layer's weight, unclipped, one step size."""
        is_linear = self.net.body.flat and parameter.dim() == 2 and name.endswith(".weight")
        return is_linear and self.grad_clip is None and torch.as_tensor(self.step_size(name)).dim() == 0

    def inner_step(self, weights: Weights, support_x: Tensor, support_y: Tensor) -> Weights:
        """The weights after one gradient step on the support loss.

        For a `TaskWeight` the loss is differentiated by the layer's outputs u: ∂L/∂W is (∂L/∂u)ᵀ x.
        """
        training, (tasks, examples) = torch.is_grad_enabled(), support_x.shape[:2]
        if not training:  # validation and test keep no graph but this step's
            weights = {name: weight.detach() for name, weight in weights.items()}
        adapted = {name: weight for name, weight in weights.items() if self.adapts(name)}
        factored = {name: weight for name, weight in adapted.items() if isinstance(weight, TaskWeight)}
        zero_shifts = {n: support_x.new_zeros(tasks, examples, w.base.shape[-2]) for n, w in factored.items()}

        def support_loss(at: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            used = {name: TaskWeight(w.base, w.products, at[name]) for name, w in factored.items()}
            predictions = functional_call(self.net, weights | at | used, support_x)
            inputs = {name: weight.inputs for name, weight in used.items()}
            return self.task_losses(predictions, support_y).sum(), inputs  # no weight is shared by tasks

        second_order = training and not self.first_order
        grads, inputs = gradients(support_loss, adapted | zero_shifts, second_order)
        if self.grad_clip is not None:
            clip = torch.clamp if training else torch.clamp_
            grads = {name: clip(grad, -self.grad_clip, self.grad_clip) for name, grad in grads.items()}
        moved: Weights = {}
        for name, grad in grads.items():
            size, weight = self.step_size(name), adapted[name]
            if name in factored:
                x = inputs[name] if second_order else inputs[name].detach()
                moved[name] = weight.plus(-size * grad, x)
            elif isinstance(size, Tensor):
                moved[name] = weight - size * grad
            else:
                moved[name] = torch.sub(weight, grad, alpha=size)
        return weights | moved

    def predict_queries(self, weights: Weights, support_x: Tensor, query_x: Tensor) -> Tensor:
        return query_pass(partial(functional_call, self.net, weights), self.net.body.bn, support_x, query_x)
