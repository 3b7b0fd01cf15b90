"""How a training step's time and memory grow with what a task is made of: `python -m benchmarks --grow`."""

import argparse
import math
from typing import Any

from rich.progress import Progress

from benchmarks import cases
from benchmarks.clock import take_turns
from benchmarks.counts import count

LINES = [
    ("sine/oplstm", "method.meta_batch_size", (1, 4, 16)),
    ("sine/oplstm", "shots", (5, 20, 80)),
    ("sine/oplstm", "method.passes", (1, 3, 9)),
    ("omniglot/maml", "method.meta_batch_size", (2, 8, 32)),
    ("omniglot/maml", "data.ways", (5, 10, 20)),
    ("omniglot/maml", "shots", (1, 2, 5)),
    ("omniglot/maml", "method.inner_steps", (1, 2, 4)),
    ("mini/protonet", "data.size", (28, 56, 84)),
]


def grow(args: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """Each line's points, within about `--seconds` a line."""
    found = []
    for name, setting, values in progress.track(LINES, description="growth"):
        points = [point(name, setting, value, args, args.seconds / len(values)) for value in values]
        powers = {what: power(points, what) for what in ("cpu_ms", "peak_mb")}
        found.append({"case": name, "setting": setting, "points": points, "powers": powers})
    return found


def point(name: str, setting: str, value: int, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    case = cases.build(name, args.device, [*args.set, f"{setting}={value}"])
    step = case.train()
    counted = count(step)
    times = take_turns({"train": step}, seconds, args.device.startswith("cuda"))["train"].summary(1)
    measured = {"ms": times["median"], "cpu_ms": times["cpu"], "peak_mb": counted.peak / 1e6}
    return {"value": value, **measured, "kernels": counted.kernels}


def power(points: list[dict[str, Any]], what: str) -> float:
    """p where y grows as x to the power of p, from the first point to the last."""
    first, last = points[0], points[-1]
    return math.log(last[what] / first[what]) / math.log(last["value"] / first["value"])
