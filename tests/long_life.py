"""Whether a long run grows: `python -m tests.long_life`, or with the settings of a run of your own in quotes.

Whole runs, validated, saved and logged; after every validation the process's resident memory, the blocks of it that
Python's objects take, its open files, and the files in the temporary folder and in the run's own.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import lightning as L
import numpy as np

from fewshot.config.checks import check
from fewshot.config.compose import composed
from fewshot.training import fit
from fewshot.training.callbacks import PrintValidation
from fewshot.training.run import run as train

SMALL = "logger=csv trainer.enable_progress_bar=false trainer.num_threads=1 trainer.num_val_tasks=20 trainer.num_test_tasks=20"
RUNS = [
    "data=sine method=lstm trainer.max_steps=20000 trainer.val_check_interval=500",
    "data=sine method=oplstm trainer.max_steps=4000 trainer.val_check_interval=200",
    "data=glyphs method=oplstm trainer.max_steps=2000 trainer.val_check_interval=100 trainer.save_every_n_steps=50",
]
MOST = {"memory_mb": 8, "blocks": 1.5, "open_files": 0, "temporary": 0, "in_folder": 0}  # growth allowed


class Row(NamedTuple):
    """What is counted after an update."""

    update: int
    memory_mb: float
    blocks: int
    open_files: int
    temporary: int
    in_folder: int


class Watch(PrintValidation):
    """In the place of the callback that prints a line a validation: counts as well."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, list[Row]()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            gc.collect()  # what it would free later is no growth
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            temporary, kept = (len(list((self.folder / name).rglob("*"))) for name in ("tmp", "outputs"))
            opened = len(os.listdir("/proc/self/fd"))
            memory, blocks = pages * os.sysconf("SC_PAGESIZE") / 1e6, sys.getallocatedblocks()
            self.rows.append(Row(trainer.global_step, memory, blocks, opened, temporary, kept))


def watched(overrides: list[str], folder: Path) -> list[Row]:
    """The counts of one whole run, with its outputs and its temporary folder in `folder`."""
    (folder / "tmp").mkdir()
    cfg = composed(
        [*SMALL.split(), f"paths.outputs={folder}/outputs", f"paths.prepared={folder}", *overrides]
    )
    check(cfg)
    watch = Watch(folder)
    with (
        patch.object(tempfile, "tempdir", f"{folder}/tmp"),
        patch.object(fit, "PrintValidation", lambda: watch),
    ):
        assert train(cfg)["status"] == "finished"
    return watch.rows


def growth(rows: list[Row]) -> dict[str, float]:
    """How each number grows in the second half of a run: memory along a line, blocks an update, files at most."""
    settled = rows[len(rows) // 2 :]
    update, memory, blocks, *files = np.array(settled).T
    return {
        "memory_mb": float(np.polyfit(update, memory, 1)[0] * (update[-1] - update[0])),
        "blocks": float(np.polyfit(update, blocks, 1)[0]),
    } | {name: max(counts) - counts[0] for name, counts in zip(Row._fields[3:], files, strict=True)}


def grows(rows: list[Row]) -> list[str]:
    """What grows more than it may."""
    return [name for name, by in growth(rows).items() if by > MOST[name]]


def main() -> int:
    wrong = False
    for overrides in sys.argv[1:] or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            rows = watched(overrides.split(), Path(folder))
        print(f"\n{overrides}\n" + "".join(f"{name:>12}" for name in Row._fields))
        for row in rows[:: max(1, len(rows) // 20)]:
            print("".join(f"{value:12.1f}" if isinstance(value, float) else f"{value:12}" for value in row))
        told = ", ".join(f"{name} {by:+.2f}" for name, by in growth(rows).items())
        print(f"in the second half: {told}; grows: {', '.join(grows(rows)) or 'nothing'}", flush=True)
        wrong |= bool(grows(rows))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
