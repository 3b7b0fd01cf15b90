"""Plain LSTM as a few-shot learner (sections 3.2 and 3.4): `python train.py method=lstm`.

Shape suffixes: B tasks, M support examples, Q queries, D features or units, N outputs.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fewshot.backbones.base import make_body
from fewshot.backbones.layers import linear
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.methods.lstm_layers import LSTMStack, State, step
from fewshot.options import Few, UnitsOfLayers

Inputs = Literal["target", "prev_target", "prev_target_pred", "prev_target_err", "prev_target_pred_err"]


class PlainLSTM(MetaLearner):
    """A stack of LSTM layers reads the support pairs (x_i, y_i); from its state it reads the queries (x, 0).

    A "sequence" is read in its order. In a "set" all examples start from one state, and the new states are
    averaged (Eq. 10, Figure 3). A convolutional backbone embeds the inputs; otherwise they are read raw.
    """

    pure = True

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        hidden: Annotated[UnitsOfLayers, "units of each layer"],
        passes: Annotated[Few, "T, passes over the support set"],
        support_mode: Annotated[Literal["set", "sequence"], "how the support set is read"] = "set",
        inputs: Annotated[Inputs, "read with x_t: its label, or results of step t - 1 (Table A1)"] = "target",
        pool_cell: Annotated[bool, "a set's c is averaged like h (Eq. 10); false: one c per example"] = True,
        query_cell: Annotated[bool, "queries start from the final c; false: from zero"] = True,
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
        self.body, self.uses_backbone = None if body.flat else body, not body.flat
        features = body.features if self.body else torch.Size(task.input_shape).numel()
        self.parts = inputs.removeprefix("prev_").split("_")
        self.lstm = LSTMStack(features + task.outputs * len(self.parts), hidden)
        self.head = nn.Linear(hidden[-1], task.outputs)
        self.support_mode, self.delayed, self.passes = support_mode, inputs != "target", passes
        self.pool_cell, self.query_cell, self.first_labels = pool_cell, query_cell, first_labels

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        support_BMD, query_BQD = support_x.flatten(2), query_x.flatten(2)
        if self.body:
            support_BMD = self.body(support_x)
            query_BQD = query_pass(self.body, self.body.bn, support_x, query_x)
        read = self.read_delayed if self.delayed else self.read_sequence
        read = self.read_set if self.support_mode == "set" else read
        state = read(support_BMD, self.targets(support_y))
        *_, (h_DBQ, _) = step(self.lstm, self.lstm.input_gates(query_BQD), state, self.query_cell)
        return self.output(h_DBQ)

    def read_set(self, x_BMD: Tensor, y_BMN: Tensor) -> State | None:
        """Eq. 10: in each pass, the mean of the examples' new states."""
        unlabelled, state = self.lstm.input_gates(x_BMD), None  # the same in every pass
        labelled = unlabelled + self.lstm.label_gates(y_BMN)
        mean = partial(torch.mean, dim=2, keepdim=True)
        for t in range(self.passes):
            new = step(self.lstm, labelled if t > 0 or self.first_labels else unlabelled, state)
            state = [(mean(h), mean(c) if self.pool_cell else c) for h, c in new]
        return state

    def read_sequence(self, x_BMD: Tensor, y_BMN: Tensor) -> State | None:
        """Eqs. 7 and 8: the state after the pairs (x_1, y_1), ..., (x_M, y_M)."""
        return self.lstm.read(torch.cat([x_BMD, y_BMN], -1), self.passes)

    def read_delayed(self, x_BMD: Tensor, y_BMN: Tensor) -> State | None:
        """Table A1: each example comes with the previous step's label, prediction and squared error.

        A pass starts with zeros and ends with the first example once more, with which the last label is read.
        """
        tasks, examples, outputs = y_BMN.shape
        gates, state = self.lstm.input_gates(x_BMD), None
        for _ in range(self.passes):
            previous = x_BMD.new_zeros(tasks, 1, outputs * len(self.parts))
            for i in (*range(examples), 0):
                state = step(self.lstm, gates[:, :, i : i + 1] + self.lstm.label_gates(previous), state)
                prediction, label = self.output(state[-1][0]), y_BMN[:, i : i + 1]
                seen = {"target": label, "pred": prediction, "err": (prediction - label).square()}
                previous = torch.cat([seen[part] for part in self.parts], -1)
        return state

    def output(self, h_DBM: Tensor) -> Tensor:
        """The predictions of the top layer's h, (B, M, outputs)."""
        return linear(h_DBM.permute(1, 2, 0), self.head.weight, self.head.bias)
