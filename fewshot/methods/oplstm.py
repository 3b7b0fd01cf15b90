"""Outer Product LSTM (section 4, Algorithm 1): `python train.py method=oplstm`.

Shape suffixes: B tasks, M support examples, I inputs and O outputs of a layer.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.backbones import make_body
from fewshot.backbones.blocks import Block, Blocks
from fewshot.backbones.layers import lstm_cell
from fewshot.backbones.task_weight import TaskWeight, squared_norm
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.options import Few, Positive, UnitsOfLayers

State = list[tuple[Tensor, Tensor]]  # h and c of each cell


class OPLSTM(MetaLearner):
    """An LSTM that updates a network's weights, the 2D hidden states H, by outer products.

    On linear blocks every layer is an OP-LSTM block; on other backbones only the output layer is.

    `normalisation` of the update (Eq. 14): each outer product by its own Frobenius norm ("example"), each layer's mean
    ("matrix"), all layers' means together ("joint") or "none". With `preactivation` the LSTM and the outer products see
    the hidden layers' outputs before batch norm and ReLU, and their updates are scaled by batch norm's weight over its
    spread (the released code's FC net).
    """

    steps_setting = "passes"
    repeated = "one_pass"
    one_graph = True
    replayable = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        passes: Annotated[Few, "T, updates on the whole support set"],
        lstm_units: Annotated[UnitsOfLayers, "units of the coordinate-wise LSTM's cells; the last is 1"] = (
            5,
            5,
            1,
        ),
        normalisation: Annotated[
            Literal["example", "matrix", "joint", "none"], "of the update (Eq. 14)"
        ] = "example",
        gamma: Annotated[
            Positive | None, "initial value of the learned step size; null: 1, not learned"
        ] = 0.025,
        pool_state: Annotated[
            bool, "the LSTM's state is averaged over the support set each pass (Eq. 16)"
        ] = True,
        softmax: Annotated[bool, "the LSTM is shown probabilities; false: logits (classes only)"] = True,
        preactivation: Annotated[bool, "the LSTM sees hidden layers before batch norm and ReLU"] = False,
        detach: Annotated[bool, "the graph is cut at the LSTM's inputs"] = False,
        scalar_bias: Annotated[bool, "one output bias for all classes"] = False,
    ) -> None:
        super().__init__(task, lr)
        self.body = make_body(task.input_shape, backbone)
        self.head = nn.Linear(self.body.features, task.outputs)
        if scalar_bias:  # the released code makes it with a layer of two inputs, whatever the features
            self.head.bias = nn.Parameter(torch.empty(1).uniform_(-(0.5**0.5), 0.5**0.5))
        self.hidden: list[Block] = list(self.body) if isinstance(self.body, Blocks) and self.body.flat else []
        if preactivation and not (self.hidden and self.hidden[0].has_bn):
            raise UserError("preactivation=true needs linear layers with batch norm: choose backbone=fc")
        if lstm_units[-1] != 1:
            raise UserError(
                f"lstm_units={list(lstm_units)}: the last is 1, as the LSTM works on one coordinate"
            )
        self.output_lstm = make_cells(lstm_units)
        if self.hidden:
            self.hidden_lstm = make_cells(lstm_units)
        self.gamma = None if gamma is None else nn.Parameter(torch.tensor(float(gamma)))
        self.passes, self.normalisation = passes, normalisation
        self.pool_state, self.softmax, self.preactivation = (
            pool_state,
            softmax and not task.regression,
            preactivation,
        )
        self.detach = detach

    def output_layer(self, support_x: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output layer's inputs under H_0, (B, M, I), its H_0 and its H_T, (B, O, I) each."""
        support = support_x.flatten(2) if self.hidden else self.body(support_x)
        initial, final = self.initial_weights(), self.learn(support, self.targets(support_y))
        features = self.activations(support, initial)[0][-1]
        return features, initial[-1].materialize(len(support)), final[-1].materialize(len(support))

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        if self.hidden:
            support, query = support_x.flatten(2), query_x.flatten(2)
        else:
            support, query = self.body(support_x), query_pass(self.body, self.body.bn, support_x, query_x)
        weights = self.learn(support, self.targets(support_y))

        def adapted(x: Tensor, reference: int | None = None) -> Tensor:
            return self.activations(x, weights, reference)[1][-1]

        return query_pass(adapted, self.body.bn if self.hidden else "none", support, query)

    def initial_weights(self) -> list[TaskWeight]:
        """H_0 of every layer, the same for all tasks."""
        return [*(TaskWeight(block.weight) for block in self.hidden), TaskWeight(self.head.weight)]

    def activations(
        self, x: Tensor, weights: list[TaskWeight], reference: int | None = None
    ) -> tuple[list[Tensor], ...]:
        """Eq. 13 for every layer: its input a^(l-1) and its linear output u^l = H a^(l-1) + b, (B, M, ·) each."""
        inputs, outputs = [x], []
        for block, weight in zip(self.hidden, weights[:-1], strict=True):
            outputs.append(weight.linear(inputs[-1], block.bias))
            inputs.append(block.activate(outputs[-1], reference))
        outputs.append(weights[-1].linear(inputs[-1], self.head.bias))
        return inputs, outputs

    def learn(self, x: Tensor, targets: Tensor) -> list[TaskWeight]:
        """H_T of every layer after `passes` passes over the support set (Algorithm 1, lines 7 to 14)."""
        weights = self.initial_weights()
        states: list[State | None] = [None] * len(weights)
        for _ in range(self.passes):
            weights, states = self.one_pass(weights, states, x, targets)
        return weights

    def one_pass(
        self, weights: list[TaskWeight], states: list[State | None], x: Tensor, targets: Tensor
    ) -> tuple[list[TaskWeight], list[State | None]]:
        """Every layer's H_(t+1) and its LSTM's state, from H_t and the state before."""
        inputs, outputs = self.activations(x, weights)
        prediction = outputs[-1].softmax(-1) if self.softmax else outputs[-1]
        below = [x, *outputs[:-1]] if self.preactivation else inputs  # a^(l-1) of the outer products
        shown = [*below[1:], prediction]  # a^l of the LSTM's inputs
        message, directions = targets, []
        new: list[State | None] = []
        for layer in reversed(range(len(weights))):  # Eq. 17, from the output layer down
            h_BMO, state = self.coordinate(self.cells(layer), shown[layer], message, states[layer])
            if layer > 0:
                message = weights[layer].transposed(h_BMO)
            directions.append(self.direction(h_BMO, below[layer], layer, outputs))
            new.append(state)
        return self.update(weights, directions[::-1]), new[::-1]

    def alike(self, *told: Any) -> tuple[Any, ...]:
        """The first pass's arguments as the later ones have them: states of zero, and weights a task.

        Products would grow from pass to pass, and each number of them is compiled anew.
        """
        weights, states, x, targets = told
        if states[0] is not None:
            return told
        tasks, examples, _ = targets.shape
        each = [
            TaskWeight(w.materialize(tasks).clone(memory_format=torch.contiguous_format)) for w in weights
        ]
        rows = [tasks * examples * len(weight.base) for weight in weights]
        at_rest = [
            [
                tuple(x.new_zeros(cell.hidden_size, n, requires_grad=True) for _ in "hc")
                for cell in self.cells(layer)
            ]
            for layer, n in enumerate(rows)
        ]
        return each, at_rest, x, targets

    def cells(self, layer: int) -> Any:
        """The LSTM's cells of a layer: hidden ones share theirs."""
        return self.hidden_lstm if layer < len(self.hidden) else self.output_lstm

    def coordinate(
        self, cells: nn.ModuleList, a_BMO: Tensor, m_BMO: Tensor, state: State | None
    ) -> tuple[Tensor, State]:
        """The coordinate-wise LSTM (Eq. 15) on z = [a, m]: the new h (B, M, O) and state, from zero if None.

        The rows of all tasks, examples and nodes run along the last axis: the gates are then contiguous, which on a
        CPU makes this twice as fast as nn.LSTMCell.
        """
        x_DR = torch.stack([a_BMO, m_BMO]).flatten(1)
        x_DR = x_DR.detach() if self.detach else x_DR
        new = []
        for number, cell in enumerate(cells):
            assert isinstance(cell, nn.LSTMCell)
            gates = torch.addmm((cell.bias_ih + cell.bias_hh).unsqueeze(1), cell.weight_ih, x_DR)
            h, c = state[number] if state else (None, None)
            if h is not None:
                gates = torch.addmm(gates, cell.weight_hh, h)
            h, c = lstm_cell(gates, c)
            new.append((h, c))
            x_DR = h
        if self.pool_state:  # Eq. 16
            new = [(pool(h, a_BMO.shape), pool(c, a_BMO.shape)) for h, c in new]
        return x_DR.view(a_BMO.shape), new

    def direction(
        self, h_BMO: Tensor, a_BMI: Tensor, layer: int, outputs: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Factors whose product hᵀ a, (B, O, I), is the mean outer product over the support set (Eq. 14)."""
        if self.normalisation == "example":  # |h aᵀ| = |h| |a|: no M × O × I tensor
            h_BMO, a_BMI = F.normalize(h_BMO, dim=-1), F.normalize(a_BMI, dim=-1)
        if self.preactivation and layer < len(self.hidden):
            h_BMO = h_BMO * (self.hidden[layer].bn_weight * inverse_spread(outputs[layer]))
        return h_BMO / h_BMO.shape[1], a_BMI

    def update(self, weights: list[TaskWeight], directions: list[tuple[Tensor, Tensor]]) -> list[TaskWeight]:
        """H_(t+1) of every layer: a step of gamma along its direction, by one norm each ("matrix") or all ("joint")."""
        scale: list[Tensor | float] = [1.0 if self.gamma is None else self.gamma] * len(weights)
        if self.normalisation in ("joint", "matrix"):
            squares = [squared_norm(h, a) for h, a in directions]
            if self.normalisation == "joint":
                squares = [torch.stack(squares).sum(0)] * len(weights)
            scale = [
                s * q.clamp_min(1e-24).rsqrt() for s, q in zip(scale, squares, strict=True)
            ]  # zero stays zero
        steps = zip(weights, directions, scale, strict=True)
        return [weight.plus(h * s, a) for weight, (h, a), s in steps]


def inverse_spread(u_BMO: Tensor) -> Tensor:
    """1 / sqrt(sum of squared deviations over the support set + 1e-7), (B, 1, O), as the released FC net has it."""
    return torch.rsqrt((u_BMO - u_BMO.mean(1, keepdim=True)).square().sum(1, keepdim=True) + 1e-7)


def make_cells(units: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.LSTMCell(i, o) for i, o in pairwise([2, *units]))


def pool(rows_DR: Tensor, shape: torch.Size) -> Tensor:
    """Cell states (D, B * M * O) replaced by their mean over the task's M examples."""
    state = rows_DR.view(-1, *shape)
    return state.mean(2, keepdim=True).expand_as(state).reshape(rows_DR.shape)
