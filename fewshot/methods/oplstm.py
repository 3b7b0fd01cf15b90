"""Outer Product LSTM (OP-LSTM, section 4, Algorithm 1): `python train.py method=oplstm`.

Shape suffixes: B tasks, M support examples, I inputs and O outputs of a layer; of convolutions pixels follow.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fewshot.backbones.base import make_body
from fewshot.backbones.blocks import Blocks
from fewshot.backbones.task_kernel import TaskKernel, pick, spread, unpool
from fewshot.backbones.task_weight import TaskWeight
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.methods.lstm_layers import CoordinateLSTM, State, pooled
from fewshot.options import Few, Positive, UnitsOfLayers

Normalisation = Literal["example", "matrix", "joint", "none"]
Layers = list[Tensor]
Weights = list[Any]  # H of each layer: `TaskWeight`, or `TaskKernel` of a convolution
States = list[State | None]  # of each layer's LSTM


class OPLSTM(MetaLearner):
    """An LSTM updates a network's weights, which are its 2D hidden states H, by outer products.

    On linear blocks every layer is adapted, on other backbones the output layer alone. With `layers=all` the
    convolutions of blocks are adapted too: h and messages are numbers per pixel, outer products are summed
    over pixels, and messages pass a pooling layer to the pixels that won, or evenly (`unpooling=even`).
    Updates are divided by the norm of each example's outer product ("example"), of each layer's mean
    ("matrix"), or of all layers' ("joint").
    With `preactivation`, as released for the FC net, LSTM and outer products read hidden layers before batch
    norm and ReLU, and updates are scaled by batch norm's weight over the outputs' spread.
    """

    pure = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        passes: Annotated[Few, "T, updates by the whole support set"],
        lstm_units: Annotated[UnitsOfLayers, "units of each LSTM cell; the last is 1"] = (5, 5, 1),
        normalisation: Annotated[Normalisation, "of the update (Eq. 14)"] = "example",
        gamma: Annotated[Positive | None, "initial value of the learned step size; null: fixed at 1"] = 0.025,
        pool_state: Annotated[bool, "average the LSTM's state over the support set (Eq. 16)"] = True,
        softmax: Annotated[bool, "the LSTM reads class probabilities; false: logits"] = True,
        preactivation: Annotated[bool, "read hidden layers before batch norm and ReLU"] = False,
        detach: Annotated[bool, "detach the LSTM's inputs from the graph"] = False,
        scalar_bias: Annotated[bool, "one output bias for all classes"] = False,
        layers: Annotated[Literal["last", "all"], "of convolutional blocks: the output's, or all"] = "last",
        unpooling: Annotated[
            Literal["winner", "even"], "h of a window: to its maximum, or to all"
        ] = "winner",
    ) -> None:
        super().__init__(task, lr)
        self.body = make_body(task.input_shape, backbone)
        self.head = nn.Linear(self.body.features, task.outputs)
        if scalar_bias:  # as released: initialised as for a layer of two inputs
            self.head.bias = nn.Parameter(torch.empty(1).uniform_(-(0.5**0.5), 0.5**0.5))
        self.hidden: list[Any] = []  # blocks
        if isinstance(self.body, Blocks) and (self.body.flat or layers == "all"):
            self.hidden = list(self.body)
        if layers == "all" and (self.body.flat or not self.hidden):
            raise UserError("layers=all adapts convolutions: choose backbone=conv4 or conv1d")
        if preactivation and not (self.hidden and self.hidden[0].has_bn):
            raise UserError(
                "preactivation=true needs adapted layers with batch norm: backbone=fc, or layers=all"
            )
        if lstm_units[-1] != 1:
            raise UserError(f"lstm_units={list(lstm_units)}: the last is 1, one number per coordinate")
        self.output_lstm = CoordinateLSTM(lstm_units)
        if self.hidden:
            self.hidden_lstm = CoordinateLSTM(lstm_units)
        self.gamma = None if gamma is None else nn.Parameter(torch.tensor(float(gamma)))
        self.passes, self.normalisation, self.pool_state = passes, normalisation, pool_state
        self.unpool = spread if unpooling == "even" else unpool
        self.softmax, self.preactivation, self.detach = softmax and not task.regression, preactivation, detach

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        if self.hidden:
            support, query, bn = self.body.as_input(support_x), self.body.as_input(query_x), self.body.bn
        else:
            support, bn = self.body(support_x), "none"
            query = query_pass(self.body, self.body.bn, support_x, query_x)
        weights = self.adapt(support, self.targets(support_y))
        return query_pass(
            lambda x, reference=None: self.activations(x, weights, reference)[1][-1], bn, support, query
        )

    def output_layer(self, support_x: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output layer's inputs under H_0, (B, M, I), and its weights H_0 and H_T, (B, O, I)."""
        support = self.body.as_input(support_x) if self.hidden else self.body(support_x)
        initial, final = self.initial_weights(), self.adapt(support, self.targets(support_y))
        features = self.activations(support, initial)[0][-1]
        return features, initial[-1].materialize(len(support)), final[-1].materialize(len(support))

    def initial_weights(self) -> Weights:
        """H_0 of every layer, shared by all tasks."""
        hidden = [(TaskKernel if block.is_conv else TaskWeight)(block.weight) for block in self.hidden]
        return [*hidden, TaskWeight(self.head.weight)]

    def adapt(self, x: Tensor, targets: Tensor) -> Weights:
        """H_T of every layer after `passes` passes over the support set (Algorithm 1, lines 7 to 14)."""
        weights = self.initial_weights()
        states: States = [None] * len(weights)
        for _ in range(self.passes):
            weights, states = self.one_pass(weights, states, x, targets)
        return weights

    def activations(self, x: Tensor, weights: Weights, reference: int | None = None) -> tuple[Layers, Layers]:
        """Eq. 13: each layer's input a^(l-1) and its linear output u^l = H a^(l-1) + b, (B, M, ·)."""
        inputs, outputs = [x], []
        for block, weight in zip(self.hidden, weights[:-1], strict=True):
            outputs.append(weight.linear(inputs[-1], block.bias))
            inputs.append(block.activate(outputs[-1], reference))
        inputs[-1] = inputs[-1].flatten(2)
        outputs.append(weights[-1].linear(inputs[-1], self.head.bias))
        return inputs, outputs

    def one_pass(self, weights: Weights, states: States, x: Tensor, y: Tensor) -> tuple[Weights, States]:
        """H_(t+1) and the LSTM's state of every layer; a state of None is zero."""
        inputs, outputs = self.activations(x, weights)
        prediction = outputs[-1].softmax(-1) if self.softmax else outputs[-1]
        won = [*(block.winners(u) for block, u in zip(self.hidden, outputs[:-1], strict=True)), None]
        below = inputs  # a^(l-1) of the outer products
        if self.preactivation:
            picked = map(pick, outputs[:-1], won)
            below = [x, *(u.reshape(a.shape) for u, a in zip(picked, inputs[1:], strict=True))]
        above = [*below[1:], prediction]  # a^l of the LSTM's inputs
        message, updates = y, []
        new_states: States = []
        for layer in reversed(range(len(weights))):  # Eq. 17: messages go down from the output layer
            a, m = (above[layer].detach(), message.detach()) if self.detach else (above[layer], message)
            h_BMO, state = self.lstm(layer)(a, m, states[layer])  # Eq. 15
            u, pixels = outputs[layer], won[layer]
            shape = u.shape if pixels is None else pixels.shape
            new_states.append(pooled(state, shape) if self.pool_state else state)
            h_BMO = h_BMO.view_as(u) if pixels is None else self.unpool(h_BMO, pixels, u)
            message = weights[layer].transposed(h_BMO) if layer > 0 else message
            updates.append(self.outer_product(weights, layer, h_BMO, below[layer], u))
        return self.updated(weights, updates[::-1]), new_states[::-1]

    def lstm(self, layer: int) -> CoordinateLSTM:
        """The LSTM of a layer: all hidden layers share one."""
        return self.hidden_lstm if layer < len(self.hidden) else self.output_lstm

    def outer_product(
        self, weights: Weights, layer: int, h_BMO: Tensor, a_BMI: Tensor, u_BMO: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Eq. 14's mean over the support set, as factors h and a of hᵀ a."""
        if self.normalisation == "example":
            h_BMO, a_BMI = weights[layer].unit(h_BMO, a_BMI)
        if self.preactivation and layer < len(self.hidden):
            h_BMO = h_BMO * self.hidden[layer].slope(u_BMO)
        return h_BMO / h_BMO.shape[1], a_BMI

    def updated(self, weights: Weights, updates: list[tuple[Tensor, Tensor]]) -> Weights:
        """Eq. 14: H_(t+1) of every layer. An update of zero stays zero."""
        gamma = 1.0 if self.gamma is None else self.gamma
        scales: list[Any] = [gamma] * len(weights)
        if self.normalisation in ("joint", "matrix"):
            squares = [w.square(h, a).view(-1, 1, 1) for w, (h, a) in zip(weights, updates, strict=True)]
            if self.normalisation == "joint":
                squares = [torch.stack(squares).sum(0)] * len(weights)
            scales = [gamma * square.clamp_min(1e-24).rsqrt() for square in squares]
        return [w.plus(h, a, scale) for w, (h, a), scale in zip(weights, updates, scales, strict=True)]
