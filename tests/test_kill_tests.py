"""The short part of `make torture`: commands killed at random moments end as those that nobody disturbed."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import tables


def test_killed_commands_end_as_undisturbed_ones(tmp_path: Path) -> None:
    told = ["--kills", "3", "--minutes", "2", "--cases", "a run"]
    places = ["--outputs", str(tmp_path / "outputs"), "--prepared", str(tables(tmp_path))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *told, *places], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills, *_ = done.stdout.splitlines()[-1].split()
    assert int(kills) > 0
