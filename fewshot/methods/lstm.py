"""Plain LSTM as a few-shot learner (sections 3.2 and 3.4): `python train.py method=lstm method.support=set`."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fewshot.backbones import make_body
from fewshot.backbones.layers import linear
from fewshot.errors import UserError
from fewshot.methods.base import Lr, MetaLearner, Task, query_pass
from fewshot.options import Few, UnitsOfLayers

Inputs = Literal["target", "prev_target", "prev_target_pred", "prev_target_err", "prev_target_pred_err"]
State = list[tuple[Tensor, Tensor]]  # h and c of each layer


class PlainLSTM(MetaLearner):
    """Feeds (x_i, y_i) pairs to a stack of LSTM layers and conditions the queries, (x, 0), on the state reached.

    A "sequence" walks over the support set in its order; a "set" feeds all examples from one state and averages what
    comes out (Eq. 10, Figure 3). A sequence may see, instead of x_t's own label, what the step before left (Table A1):
    its label, prediction and squared error. The backbone is used where it reads images; otherwise the LSTM sees the
    raw, flat input.
    """

    inner_steps = "passes"

    def __init__(
        self,
        task: Task,
        backbone: Mapping[str, Any],
        lr: Lr,
        hidden: Annotated[UnitsOfLayers, "units of each layer"],
        passes: Annotated[Few, "T, times the support set is fed"],
        support: Annotated[Literal["set", "sequence"], "how the support set is read"] = "set",
        inputs: Annotated[Inputs, "what comes with x_t: its label, or what the last step left (Table A1)"] = "target",
        pool_cell: Annotated[bool, "a set's c is averaged as h is (Eq. 10); false: each example keeps its own"] = True,
        query_cell: Annotated[bool, "the queries start from the c reached; false: from 0"] = True,
        first_labels: Annotated[bool, "false: a set's labels are zero in the first pass"] = True,
    ) -> None:
        super().__init__(task, lr)
        body = make_body(task.input_shape, backbone)
        self.body = None if body.flat else body
        features = body.features if self.body else torch.Size(task.input_shape).numel()
        self.fed = inputs.removeprefix("prev_").split("_")
        sizes = [features + task.outputs * len(self.fed), *hidden]
        self.lstm = nn.ModuleList(nn.LSTM(i, h, batch_first=True) for i, h in pairwise(sizes))
        self.head = nn.Linear(hidden[-1], task.outputs)
        self.hidden = list(hidden)
        self.support, self.passes, self.offset = support, passes, inputs != "target"
        self.pool_cell, self.query_cell, self.first_labels = pool_cell, query_cell, first_labels

    @classmethod
    def check(cls, **told: Any) -> None:
        if told["support"] == "set" and told["inputs"] != "target":
            raise UserError(f"inputs={told['inputs']} needs an order of the examples: choose support=sequence")
        if told["support"] == "sequence" and not told["first_labels"]:
            raise UserError("first_labels=false is for support=set: a sequence is always shown its labels")
        if told["support"] == "set" and told["query_cell"] and not told["pool_cell"]:
            raise UserError("query_cell=true needs pool_cell=true: the queries start from one pooled cell")

    @property
    def uses_backbone(self) -> bool:
        return self.body is not None

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        if self.body:
            features_BMD, query_BQD = self.body(support_x), query_pass(self.body, self.body.bn, support_x, query_x)
        else:
            features_BMD, query_BQD = support_x.flatten(2), query_x.flatten(2)
        sequence = self.read_offset if self.offset else self.read_sequence
        read = self.read_set if self.support == "set" else sequence
        state = read(features_BMD, self.targets(support_y))
        if not self.query_cell:
            state = [(h, torch.zeros_like(c)) for h, c in state]
        queries = query_BQD.shape[1]
        state = [(h.repeat_interleave(queries, 0), c.repeat_interleave(queries, 0)) for h, c in state]
        no_label = query_BQD.new_zeros(*query_BQD.shape[:2], self.task.outputs * len(self.fed))
        top, _ = self.step(torch.cat([query_BQD, no_label], -1).flatten(0, 1).unsqueeze(1), state)
        return linear(top.view(*query_BQD.shape[:2], -1), self.head.weight, self.head.bias)

    def read_set(self, x_BMD: Tensor, y_BMN: Tensor) -> State:
        """The pooled state after `passes` passes (Eq. 10), h and c (B, hidden) a layer."""
        tasks, examples = x_BMD.shape[:2]
        state = self.zeros(tasks * examples, x_BMD)
        for t in range(self.passes):
            labels = y_BMN if t > 0 or self.first_labels else torch.zeros_like(y_BMN)
            _, state = self.step(torch.cat([x_BMD, labels], -1).flatten(0, 1).unsqueeze(1), state)
            state = [(pool(h, examples), pool(c, examples) if self.pool_cell else c) for h, c in state]
        return [(h[::examples], c[::examples]) for h, c in state]

    def read_sequence(self, x_BMD: Tensor, y_BMN: Tensor) -> State:
        """The state after `passes` walks over the support set (Eqs. 7 and 8), h and c (B, hidden) a layer."""
        walk = torch.cat([x_BMD, y_BMN], -1)
        state = self.zeros(len(walk), walk)
        for _ in range(self.passes):
            _, state = self.step(walk, state)
        return state

    def read_offset(self, x_BMD: Tensor, y_BMN: Tensor) -> State:
        """The same, each example beside what the step before it left; a pass ends with the first one once more.

        Otherwise the last label would not be seen. A pass begins with zeros.
        """
        tasks, examples, outputs = y_BMN.shape
        state = self.zeros(tasks, x_BMD)
        for _ in range(self.passes):
            left = x_BMD.new_zeros(tasks, outputs * len(self.fed))
            for i in (*range(examples), 0):
                top, state = self.step(torch.cat([x_BMD[:, i], left], -1).unsqueeze(1), state)
                prediction = linear(top, self.head.weight, self.head.bias).squeeze(1)
                seen = {"target": y_BMN[:, i], "pred": prediction, "err": (prediction - y_BMN[:, i]).square()}
                left = torch.cat([seen[name] for name in self.fed], -1)
        return state

    def step(self, x_RSD: Tensor, state: State) -> tuple[Tensor, State]:
        """R sequences of S inputs through all layers: the top layer's outputs (R, S, hidden) and the new state."""
        new = []
        for layer, (h, c) in zip(self.lstm, state, strict=True):
            x_RSD, (h, c) = layer(x_RSD, (h.unsqueeze(0), c.unsqueeze(0)))
            new.append((h.squeeze(0), c.squeeze(0)))
        return x_RSD, new

    def zeros(self, rows: int, like: Tensor) -> State:
        return [(like.new_zeros(rows, units),) * 2 for units in self.hidden]


def pool(rows: Tensor, examples: int) -> Tensor:
    """Rows (B * M, D) replaced by the mean over each task's M examples."""
    return rows.view(-1, examples, rows.shape[-1]).mean(1).repeat_interleave(examples, 0)
