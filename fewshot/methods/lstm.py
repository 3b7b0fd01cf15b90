"""Plain LSTM as a few-shot learner (sections 3.2 and 3.4): `python train.py method=lstm method.support_mode=set`."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fewshot.backbones import make_body
from fewshot.backbones.layers import linear, lstm_cell
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.options import Few, UnitsOfLayers

Inputs = Literal["target", "prev_target", "prev_target_pred", "prev_target_err", "prev_target_pred_err"]
# h and c of each layer, (hidden, B, M), or (hidden, B, 1) where a task's examples share them
State = list[tuple[Tensor, Tensor]]
Start = Sequence[tuple[Tensor, Tensor | None]]  # without c it is 0


class PlainLSTM(MetaLearner):
    """Feeds (x_i, y_i) pairs to a stack of LSTM layers and conditions the queries, (x, 0), on the state reached.

    A "sequence" walks over the support set in its order; a "set" feeds all examples from one state and averages what
    comes out (Eq. 10, Figure 3). A sequence may see, instead of x_t's own label, what the step before left (Table A1):
    its label, prediction and squared error. The backbone is used where it reads images; otherwise the LSTM sees the
    raw, flat input.
    """

    steps_setting = "passes"
    replayable = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        hidden: Annotated[UnitsOfLayers, "units of each layer"],
        passes: Annotated[Few, "T, times the support set is fed"],
        support_mode: Annotated[Literal["set", "sequence"], "how the support set is read"] = "set",
        inputs: Annotated[
            Inputs, "what comes with x_t: its label, or what the last step left (Table A1)"
        ] = "target",
        pool_cell: Annotated[
            bool, "a set's c is averaged as h is (Eq. 10); false: each example keeps its own"
        ] = True,
        query_cell: Annotated[bool, "the queries start from the c reached; false: from 0"] = True,
        first_labels: Annotated[bool, "false: a set's labels are zero in the first pass"] = True,
    ) -> None:
        super().__init__(task, lr)
        if support_mode == "set" and inputs != "target":
            raise UserError(f"inputs={inputs} needs an order of the examples: choose support_mode=sequence")
        if support_mode == "sequence" and not first_labels:
            raise UserError("first_labels=false is for support_mode=set: a sequence always sees its labels")
        if support_mode == "set" and query_cell and not pool_cell:
            raise UserError("query_cell=true needs pool_cell=true: the queries start from one pooled cell")
        body = make_body(task.input_shape, backbone)
        self.body = None if body.flat else body
        features = body.features if self.body else torch.Size(task.input_shape).numel()
        self.fed = inputs.removeprefix("prev_").split("_")
        sizes = [features + task.outputs * len(self.fed), *hidden]
        self.lstm = nn.ModuleList(nn.LSTM(i, h, batch_first=True) for i, h in pairwise(sizes))
        self.head = nn.Linear(hidden[-1], task.outputs)
        self.hidden = list(hidden)
        self.support_mode, self.passes, self.offset = support_mode, passes, inputs != "target"
        self.pool_cell, self.query_cell, self.first_labels = pool_cell, query_cell, first_labels

    @property
    def repeated(self) -> str | None:  # type: ignore[override]
        """All of it, which for a set is a step a pass; torch reads a sequence in few calls of its own."""
        return "forward" if self.support_mode == "set" and not self.body else None

    @property
    def uses_backbone(self) -> bool:
        return self.body is not None

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        if self.body:
            features_BMD, query_BQD = (
                self.body(support_x),
                query_pass(self.body, self.body.bn, support_x, query_x),
            )
        else:
            features_BMD, query_BQD = support_x.flatten(2), query_x.flatten(2)
        sequence = self.read_offset if self.offset else self.read_sequence
        read = self.read_set if self.support_mode == "set" else sequence
        state: Start = read(features_BMD, self.targets(support_y))
        if not self.query_cell:
            state = [(h, None) for h, _ in state]
        *_, (top_DBQ, _) = self.step(self.seen(query_BQD), state)  # no label
        return linear(top_DBQ.permute(1, 2, 0), self.head.weight, self.head.bias)

    def read_set(self, x_BMD: Tensor, y_BMN: Tensor) -> State:
        """The pooled state after `passes` passes (Eq. 10)."""
        without, state = self.seen(x_BMD), None  # the inputs' part is the same in every pass
        shown = without + self.seen_labels(y_BMN)
        for t in range(self.passes):
            each = self.step(shown if t > 0 or self.first_labels else without, state)
            state = [
                (h.mean(2, keepdim=True), c.mean(2, keepdim=True) if self.pool_cell else c) for h, c in each
            ]
        return state or self.at_rest(x_BMD)

    def read_sequence(self, x_BMD: Tensor, y_BMN: Tensor) -> State:
        """The state after `passes` walks over the support set (Eqs. 7 and 8)."""
        walk = torch.cat([x_BMD, y_BMN], -1)
        state = [(walk.new_zeros(1, len(walk), units),) * 2 for units in self.hidden]
        for _ in range(self.passes):
            x_BMD, new = walk, []
            for layer, start in zip(self.lstm, state, strict=True):
                x_BMD, end = layer(x_BMD, start)
                new.append(end)
            state = new
        return [(h.permute(2, 1, 0), c.permute(2, 1, 0)) for h, c in state]

    def read_offset(self, x_BMD: Tensor, y_BMN: Tensor) -> State:
        """The same, each example beside what the step before it left; a pass ends with the first one once more.

        Otherwise the last label would not be seen. A pass begins with zeros.
        """
        tasks, examples, outputs = y_BMN.shape
        without, state = self.seen(x_BMD), None
        for _ in range(self.passes):
            left = x_BMD.new_zeros(tasks, 1, outputs * len(self.fed))
            for i in (*range(examples), 0):
                state = self.step(without[:, :, i : i + 1] + self.seen_labels(left), state)
                prediction = linear(state[-1][0].permute(1, 2, 0), self.head.weight, self.head.bias)
                label = y_BMN[:, i : i + 1]
                seen = {"target": label, "pred": prediction, "err": (prediction - label).square()}
                left = torch.cat([seen[name] for name in self.fed], -1)
        return state or self.at_rest(x_BMD)

    def at_rest(self, like_BMD: Tensor) -> State:
        """The state before anything is read."""
        return [(like_BMD.new_zeros(units, len(like_BMD), 1),) * 2 for units in self.hidden]

    def seen(self, x_BMD: Tensor) -> Tensor:
        """What inputs without a label add to the first layer's gates, (4 hidden, B, M)."""
        layer: Any = self.lstm[0]
        return product(layer.weight_ih_l0[:, : x_BMD.shape[2]], x_BMD.permute(2, 0, 1), biases(layer))

    def seen_labels(self, y_BMN: Tensor) -> Tensor:
        """What labels, or what the last step left, add to them."""
        layer: Any = self.lstm[0]
        return product(layer.weight_ih_l0[:, -y_BMN.shape[2] :], y_BMN.permute(2, 0, 1))

    def step(self, gates_DBM: Tensor, state: Start | None) -> State:
        """All layers' new h and c (hidden, B, M), given what the inputs add to the first layer's gates (Eqs. 1 to 6).

        The state before may be a task's: h (hidden, B, 1).
        """
        new: State = []
        layers: list[Any] = list(self.lstm)
        for number, layer in enumerate(layers):
            if number > 0:
                gates_DBM = product(layer.weight_ih_l0, new[-1][0], biases(layer))
            h, c = state[number] if state else (None, None)
            if h is not None:
                gates_DBM = gates_DBM + product(layer.weight_hh_l0, h)
            new.append(lstm_cell(gates_DBM, c))
        return new


def product(weight: Tensor, x_DBM: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b of columns, (outputs, B, M)."""
    x_DR = x_DBM.flatten(1)
    y = weight @ x_DR if bias is None else torch.addmm(bias.unsqueeze(1), weight, x_DR)
    return y.unflatten(1, x_DBM.shape[1:])


def biases(layer: Any) -> Tensor:
    return layer.bias_ih_l0 + layer.bias_hh_l0
