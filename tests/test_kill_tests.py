"""The short form of `make kills`: commands killed at random moments end as undisturbed ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.config.compose import CONF


@pytest.mark.slow
def test_killed_commands_end_as_undisturbed_ones(tmp_path: Path) -> None:
    options = ["--kills", "3", "--minutes", "2", "--cases", "maml", "--outputs", str(tmp_path)]
    command = [sys.executable, "-m", "tests.kill_tests", *options]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > 0
