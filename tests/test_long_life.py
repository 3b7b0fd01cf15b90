"""The short form of `python -m tests.long_life`."""

import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.config.compose import CONF
from tests.helpers import images_of
from tests.long_life import Row, grows

SHORT = "trainer.max_steps=300 trainer.val_check_interval=20 trainer.save_every_n_steps=2 trainer.log_every_n_steps=2 trainer.num_val_tasks=4"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_run_does_not_grow(tmp_path: Path) -> None:
    """On sine, and on images with an FC net; in a process that does nothing else."""
    images = " ".join(images_of(tmp_path))
    runs = [f"data=sine method=lstm {SHORT}", f"{images} method=oplstm backbone=fc {SHORT}"]
    command = [sys.executable, "-m", "tests.long_life", *runs]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("grows: nothing") == 2


def test_what_grows_is_told() -> None:
    still = [Row(update, 900 + update % 20, 10**6 - update % 20, 9, 0, 10) for update in range(0, 310, 10)]
    assert grows(still) == []
    for name, more in (
        ("memory_mb", 0.1),
        ("blocks", 2),
        ("open_files", 0.1),
        ("temporary", 0.1),
        ("in_folder", 0.1),
    ):
        grown = [row._replace(**{name: getattr(row, name) + more * row.update}) for row in still]
        assert grows(grown) == [name]
