"""Tasks from arrays: `python train.py data=arrays data.path=TASKS.npz`.

Classification: `x` (n, ...) and `y` (n,), class labels as whole numbers or text; a class's rows are its
examples. Regression: `x` (n, ...), `y` (n, outputs) and `task` (n,); a task's rows are its examples. In both
`split` (n,) may say train, val or test.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from fewshot.data.folder import with_splits
from fewshot.data.row_source import RowSource
from fewshot.data.table import Example, Table, in_order, ranges
from fewshot.episodes import SPLITS, Task
from fewshot.errors import UserError, brief
from fewshot.options import Few, Seed, Validated, Ways

Scales = dict[str, tuple[list[Any], list[Any]]]  # "x", "y" → mean and standard deviation


def read_arrays(path: Path) -> Table:
    """The table of a file of arrays; UserError where they are not as described above."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # a damaged file can fail in any way
        text = " (give text as .astype(str))" if "Object arrays" in str(error) else ""
        raise UserError(f"{path} is no .npz file of plain arrays: {brief(error, 160)}{text}") from error
    if wrong := what_is_wrong(arrays):
        raise UserError(f"{path}: {wrong}")
    x, regression = arrays["x"], "task" in arrays
    labels = arrays["task" if regression else "y"].tolist()
    splits = arrays["split"].tolist() if "split" in arrays else [""] * len(x)
    examples = [
        Example(splits[n], str(labels[n]), f"{n:012}", partial(x.__getitem__, n)) for n in range(len(x))
    ]
    note = f"{len(x)} examples, {'tasks from task' if regression else 'classes from y'}"
    if {*splits} != {"test"}:  # which is all that `evaluate.py` needs
        examples, note = with_splits(examples, note)
    examples, counts = in_order(examples)
    rows = [int(example.name) for example in examples]
    targets = arrays["y"][rows].astype(np.float64) if regression else None
    return Table(x[rows].astype(np.result_type(x, np.float32)), ranges(counts), note, targets)


def what_is_wrong(arrays: dict[str, np.ndarray]) -> str | None:
    """The first thing that is, for people to read."""
    if not {"x", "y"} <= {*arrays} <= {"x", "y", "task", "split"}:
        return f"it holds {', '.join(arrays)}: x and y are needed, and task and split may be there"
    x, y, regression = arrays["x"], arrays["y"], "task" in arrays
    name, labels = ("task", arrays["task"]) if regression else ("y", y)
    for given, array in {"x": x, "y": y}.items() if regression else [("x", x)]:
        if array.ndim < 2 or array.dtype.kind not in "biuf" or array.itemsize > 8 or 0 in array.shape:
            return f"{given} has shape {array.shape} and type {array.dtype}: numbers (n, ...) are needed"
        good = np.abs(array).reshape(len(array), -1).max(1).astype(float) < 1e100
        if not good.all():
            return f"{given}[{good.argmin()}] has numbers that are not finite, or above 1e100"
    if regression and y.ndim != 2:
        return f"y has shape {y.shape}: (n, outputs) is needed"
    if labels.ndim != 1 or labels.dtype.kind not in "biuU":
        return f"{name} has shape {labels.shape}, type {labels.dtype}: (n,), whole numbers or text, is needed"
    if "split" in arrays and arrays["split"].ndim != 1:
        return f"split has shape {arrays['split'].shape}: (n,) is needed"
    if not np.isin(arrays.get("split", []), SPLITS).all():
        return f"split says train, val or test, not {np.setdiff1d(arrays['split'], SPLITS)[0]}"
    if {array.shape[0] for array in arrays.values() if array.ndim} != {len(x)}:
        return ", ".join(f"{name} has {len(array)} rows" for name, array in arrays.items())
    return None


class ArraySource(Validated, RowSource):
    """Tasks of `ways` classes, or regression tasks, from arrays, standardised by the rows of training.

    Each component of a vector has its own mean and standard deviation; of an example with more axes each
    channel (its first axis). So have targets: an error of 1 is about that of predicting the mean.
    """

    def __init__(
        self,
        seed: Seed,
        table: Table,
        ways: Annotated[Few, "classes of a task; 1 in regression"] = 5,
        train_ways: Annotated[Ways | None, "classes of a training task; null: the same"] = None,
    ) -> None:
        regression = table.targets is not None
        if regression != (ways == 1):
            raise UserError(f"data.ways={ways}: 1 in regression, else 2 or more")
        outputs = ways if table.targets is None else table.targets.shape[1]
        super().__init__(seed, table, Task(table.rows.shape[1:], outputs, regression, train_ways))
        trained = sum(map(len, table.splits["train"].values())) or len(table.rows)  # the first rows
        scales = {"x": self.scale_inputs(table.rows[:trained])}
        if table.targets is not None:
            scales["y"] = scale(table.targets[:trained])
        self.standardise(scales)

    def scale_inputs(self, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        return scale(values)

    def standardise(self, scales: Scales) -> None:
        if not scales:
            return
        self.scales = scales
        self.rows = standardised("x", self.table.rows, *scales["x"])
        if self.table.targets is not None:
            self.targets = standardised("y", self.table.targets, *scales["y"])

    def examples(self, index_BM: Tensor) -> Tensor:
        return self.rows[index_BM]

    def labelled(self, index_BNE: Tensor, labels_BN: Tensor) -> tuple[Tensor, Tensor]:
        if not self.task.regression:
            return super().labelled(index_BNE, labels_BN)
        self.targets = self.targets.to(index_BNE.device)
        return self.rows[index_BNE.flatten(1)], self.targets[index_BNE.flatten(1)]


def scale(values: np.ndarray) -> tuple[list[Any], list[Any]]:
    """Mean and standard deviation over the rows and all axes after the first of a row; 1 of a constant."""
    axes = (0, *range(2, values.ndim))
    mean = values.mean(axes, dtype=np.float64, keepdims=True)[0]
    std = values.std(axes, dtype=np.float64, keepdims=True)[0]
    constant = (values.min(axes) == values.max(axes)).reshape(std.shape)  # rounding may leave it a deviation
    return mean.tolist(), np.where(constant, 1.0, std).tolist()


def standardised(name: str, values: np.ndarray, mean: list[Any], std: list[Any]) -> Tensor:
    theirs = np.shape(mean)
    if theirs != (values.shape[1], *(1 for _ in values.shape[2:])):
        raise UserError(f"{name} is {values.shape[1:]}, and its scale in the run {theirs}")
    found = torch.from_numpy((values - np.array(mean)) / np.array(std)).to(torch.get_default_dtype())
    if not found.isfinite().all():
        raise UserError(f"{name} has numbers too large for {found.dtype} after standardisation")
    return found
