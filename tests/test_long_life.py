"""The short forms of `make life` and `make kills`."""

import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.config.compose import CONF
from tests.helpers import images_of

SHORT = "trainer.max_steps=300 trainer.val_check_interval=20 trainer.save_every_n_steps=2"
SHORT += " trainer.log_every_n_steps=2 trainer.num_val_tasks=4 trainer.num_test_tasks=4"


def output_of(module, *arguments):
    """What `python -m tests.<module>` prints."""
    command = [sys.executable, "-m", f"tests.{module}", *arguments]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_run_does_not_grow(tmp_path):
    """On sine, and on images with an FC network; in a process that does nothing else."""
    images = f"{' '.join(images_of(tmp_path))} method=oplstm backbone=fc {SHORT}"
    lines = output_of("long_life", f"data=sine method=lstm {SHORT}", images)
    assert sum(line.endswith("grows: nothing") for line in lines) == 2


@pytest.mark.slow
def test_killed_commands_end_as_undisturbed_ones(tmp_path):
    options = ["--kills", "3", "--minutes", "2", "--cases", "maml", "--outputs", str(tmp_path)]
    assert int(output_of("kill_tests", *options)[-1].split()[0]) > 0
