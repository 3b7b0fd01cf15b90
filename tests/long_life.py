"""Whether a long run grows: `python -m tests.long_life`, or with the settings of other runs, each in quotes.

After each validation it counts resident memory, the memory blocks of Python's objects, open files, and the
files in the temporary folder and in the run's own.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import lightning as L
import numpy as np
import pandas as pd

from fewshot.config.checks import check
from fewshot.config.compose import composed
from fewshot.training import fit
from fewshot.training.callbacks import PrintValidation
from fewshot.training.run import run

SMALL = "logger=csv trainer.enable_progress_bar=false trainer.num_threads=1 trainer.num_val_tasks=20"
RUNS = [
    "data=sine method=lstm trainer.max_steps=20000 trainer.val_check_interval=500",
    "data=sine method=oplstm trainer.max_steps=4000 trainer.val_check_interval=200",
    "data=glyphs method=oplstm trainer.max_steps=2000 trainer.val_check_interval=100",
]
ALLOWED = {"memory_mb": 8, "blocks_per_step": 1.5, "open_files": 0, "temporary": 0, "in_folder": 0}


class Count(PrintValidation):
    """In place of the callback that prints a line for each validation."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, list[dict[str, float]]()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.rows.append(
                {
                    "step": trainer.global_step,
                    "memory_mb": pages * os.sysconf("SC_PAGESIZE") / 1e6,
                    "blocks": sys.getallocatedblocks(),
                    "open_files": len(os.listdir("/proc/self/fd")),
                    "temporary": len(list((self.folder / "tmp").rglob("*"))),
                    "in_folder": len(list((self.folder / "outputs").rglob("*"))),
                }
            )


def counts(overrides: list[str], folder: Path) -> pd.DataFrame:
    """The counts of a run, with its outputs and its temporary folder in `folder`."""
    (folder / "tmp").mkdir()
    cfg = composed(
        [*SMALL.split(), f"paths.outputs={folder}/outputs", f"paths.prepared={folder}", *overrides]
    )
    check(cfg)
    count, temporary = Count(folder), patch.object(tempfile, "tempdir", f"{folder}/tmp")
    with temporary, patch.object(fit, "PrintValidation", lambda: count):
        assert run(cfg)["status"] == "finished"
    return pd.DataFrame(count.rows)


def growth(rows: pd.DataFrame) -> dict[str, float]:
    """How the counts grow in the second half of a run: memory and blocks by their slopes, files at most."""
    half = rows[len(rows) // 2 :]
    memory, blocks = (np.polyfit(half.step, half[name], 1)[0] for name in ("memory_mb", "blocks"))
    found = {"memory_mb": memory * (half.step.iloc[-1] - half.step.iloc[0]), "blocks_per_step": blocks}
    files = ("open_files", "temporary", "in_folder")
    return found | {name: half[name].max() - half[name].iloc[0] for name in files}


def grows(rows: pd.DataFrame) -> list[str]:
    """What grows more than it may."""
    return [name for name, by in growth(rows).items() if by > ALLOWED[name]]


def main() -> int:
    wrong = False
    for overrides in sys.argv[1:] or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            rows = counts(overrides.split(), Path(folder))
        print(f"\n{overrides}\n{rows[:: max(1, len(rows) // 20)].round(1).to_string(index=False)}")
        by = ", ".join(f"{name} {by:+.2f}" for name, by in growth(rows).items())
        print(f"in the second half: {by}; grows: {', '.join(grows(rows)) or 'nothing'}", flush=True)
        wrong |= bool(grows(rows))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
