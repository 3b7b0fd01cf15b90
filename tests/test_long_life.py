"""The short form of `make life`."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fewshot.config.compose import CONF
from tests.helpers import images_of
from tests.long_life import grows

SHORT = "trainer.max_steps=300 trainer.val_check_interval=20 trainer.save_every_n_steps=2"
SHORT += " trainer.log_every_n_steps=2 trainer.num_val_tasks=4 trainer.num_test_tasks=4"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_run_does_not_grow(tmp_path: Path) -> None:
    """On sine, and on images with an FC network; in a process that does nothing else."""
    images = " ".join(images_of(tmp_path))
    runs = [f"data=sine method=lstm {SHORT}", f"{images} method=oplstm backbone=fc {SHORT}"]
    command = [sys.executable, "-m", "tests.long_life", *runs]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("grows: nothing") == 2


def test_growth_is_found() -> None:
    steady = {"memory_mb": 900.0, "blocks": 1e6, "open_files": 9.0, "temporary": 0.0, "in_folder": 10.0}
    rows = pd.DataFrame([{"step": float(step)} | steady for step in range(0, 310, 10)])
    assert grows(rows) == []
    for name in steady:
        grown = rows.assign(**{name: rows[name] + (2 if name == "blocks" else 0.1) * rows.step})
        assert grows(grown) == ["blocks_per_step" if name == "blocks" else name]
