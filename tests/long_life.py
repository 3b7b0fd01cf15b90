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

from fewshot.config.compose import composed
from fewshot.config.settings import check
from fewshot.training.run import run

SMALL = "logger=csv trainer.enable_progress_bar=false trainer.num_threads=1 trainer.num_val_tasks=20"
RUNS = [
    "data=sine method=lstm trainer.max_steps=20000 trainer.val_check_interval=500",
    "data=sine method=oplstm trainer.max_steps=4000 trainer.val_check_interval=200",
    "data=glyphs method=oplstm trainer.max_steps=2000 trainer.val_check_interval=100",
]
ALLOWED = {"memory_mb": 8, "blocks": 1.5, "open_files": 0, "temporary": 0, "in_folder": 0}


def counts(overrides: list[str], folder: Path) -> pd.DataFrame:
    """The counts of a run, with its outputs and its temporary folder in `folder`, by update."""
    (folder / "tmp").mkdir()
    paths = [f"paths.outputs={folder}/outputs", f"paths.prepared={folder}"]
    cfg, rows = composed([*SMALL.split(), *paths, *overrides]), dict[int, list[float]]()
    check(cfg)

    def count(learner: L.LightningModule) -> None:
        gc.collect()
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
        files = [len(list((folder / name).rglob("*"))) for name in ("tmp", "outputs")]
        opened = len(os.listdir("/proc/self/fd"))
        rows[learner.global_step] = [memory, sys.getallocatedblocks(), opened, *files]

    temporary = patch.object(tempfile, "tempdir", f"{folder}/tmp")
    with temporary, patch.object(L.LightningModule, "on_validation_end", count):
        assert run(cfg)["status"] == "finished"
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(ALLOWED))


def growth(rows: pd.DataFrame) -> dict[str, float]:
    """How the counts grow in the second half: memory by its slope, blocks by an update, files at most."""
    half = rows[len(rows) // 2 :]
    found: dict[str, float] = (half.max() - half.iloc[0]).to_dict()
    memory, blocks = np.polyfit(half.index, half[["memory_mb", "blocks"]], 1)[0]
    return found | {"memory_mb": memory * (half.index[-1] - half.index[0]), "blocks": blocks}


def grows(rows: pd.DataFrame) -> list[str]:
    """What grows more than it may."""
    return [name for name, by in growth(rows).items() if by > ALLOWED[name]]


def main() -> int:
    wrong = False
    for overrides in sys.argv[1:] or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            rows = counts(overrides.split(), Path(folder))
        print(f"\n{overrides}\n{rows[:: max(1, len(rows) // 20)].round(1)}")
        print(f"in the second half: {growth(rows)}; grows: {grows(rows) or 'nothing'}", flush=True)
        wrong |= bool(grows(rows))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
