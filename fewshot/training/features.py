"""Features of a frozen backbone, computed once per data set and backbone; learners then see vectors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from fewshot.backbones.base import Body
from fewshot.data.arrays import ArraySource
from fewshot.data.row_source import RowSource
from fewshot.data.table import Table
from fewshot.errors import UserError
from fewshot.files import atomic_open

VERSION = 1  # raise it when the same backbone and data give other features
REFERENCE = 500  # training examples whose statistics batch norm takes where none are stored with the weights


class FeatureSource(ArraySource):
    """Tasks of features, centred by their mean over the training classes and divided by one number."""

    def scale_inputs(self, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        std = values.var(0, dtype=np.float64).mean() ** 0.5
        return values.mean(0, dtype=np.float64).tolist(), [std if std > 0 else 1.0] * values.shape[1]


def feature_table(source: RowSource, path: Path, make: Callable[[], Body], device: torch.device) -> Table:
    """The table of `source` with features in the place of its rows, from the file `path` or now put there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():  # another process may have written it meanwhile
                computed = features(source, make().eval().to(device), device)
                with atomic_open(path, "wb") as file:
                    np.save(file, computed)
    return source.table._replace(rows=np.load(path, allow_pickle=False))


@torch.no_grad()
def features(source: RowSource, body: Body, device: torch.device) -> np.ndarray:
    """The features of every row, (n, features)."""
    count, trained = len(source.table.rows), sum(map(len, source.table.splits["train"].values()))
    known: list[int] = []
    if body.bn in ("transductive", "support"):
        if trained == 0:
            raise UserError("batch norm of a frozen backbone needs training classes, and there are none")
        known = np.unique(np.linspace(0, trained - 1, REFERENCE).round().astype(int)).tolist()
    computed, at_once = [], 500 if known and source.task.input_shape[-1] <= 32 else 64
    for start in track(range(0, count, at_once), "computing features", console=Console(stderr=True)):
        index = torch.tensor([[*known, *range(start, min(start + at_once, count))]])
        found = body(source.examples(index).to(device), len(known) or None)
        computed.append(found[0, len(known) :].float().cpu().numpy())
    return np.concatenate(computed)
