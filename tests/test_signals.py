"""Stopped by a signal, by time or by a full disk, a run resumes; `make life` and `make kills` in short."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from fewshot.config.compose import CONF
from fewshot.config.run_id import run_folder
from fewshot.errors import OutOfTime
from fewshot.training.callbacks import Checkpoints
from fewshot.training.run import run
from tests.helpers import Killed, check_same, command, config, images_of, rows, wait_for, within

pytestmark = pytest.mark.usefixtures("undrawn")

LONG = [  # nothing is saved before the end of the test
    *("trainer.max_steps=100000", "trainer.val_check_interval=50000", "trainer.save_every_n_steps=50000"),
    *("trainer.compile=false", "trainer.max_time=00:00:05:00"),
]


def trains(folder):
    return (folder / "metrics.csv").exists() and len(rows(folder / "metrics.csv")) > 5


def step_of(path):
    return int(torch.load(path, weights_only=True)["global_step"])


def test_a_run_out_of_time_resumes(tmp_path, monkeypatch):
    save = Checkpoints.save

    def second_an_update(self, trainer, *args, **options):
        self.timer = SimpleNamespace(time_elapsed=lambda _: trainer.global_step)
        save(self, trainer, *args, **options)

    monkeypatch.setattr(Checkpoints, "save", second_an_update)
    # 5, 15, 35: where the log gets a row; 10, 20: where a validation is due
    for second in (3, 5, 10, 15, 20, 33, 35):
        cfg = config(tmp_path, f"trainer.max_time=00:00:00:{second:02}", outputs="stopped")
        with pytest.raises(OutOfTime):
            run(cfg)
        assert step_of(run_folder(cfg) / "last.ckpt") == second
    check_same(config(tmp_path, "trainer.max_time=00:00:01:00", outputs="stopped"), config(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_training_saves(by, tmp_path, start):
    longer = ["trainer.max_steps=500", "trainer.val_check_interval=250", "trainer.save_every_n_steps=250"]
    cfg = config(tmp_path, *longer, outputs="stopped")
    process = start(command(cfg, *longer), tmp_path)
    wait_for(process, lambda: trains(run_folder(cfg)))
    process.send_signal(by)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + by
    assert "Traceback" not in out + err
    saved = re.search(rf"\nstopped by {by.name}: the same command resumes from update (\d+) of 500\n$", err)
    assert saved, err
    assert step_of(run_folder(cfg) / "last.ckpt") == int(saved[1]) > 0
    check_same(cfg, config(tmp_path, *longer))


@pytest.mark.parametrize(("ignored", "code"), [(False, 143), (True, 0)])
def test_a_signal_outside_training_ends_at_once_unless_it_is_ignored(ignored, code):
    lines = ["import os, signal", "from fewshot.training import signals"]
    lines += ["signal.signal(signal.SIGTERM, signal.SIG_IGN)"] * ignored
    lines += ["signals.install()", "os.kill(os.getpid(), signal.SIGTERM)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=CONF.parent, capture_output=True)
    assert done.returncode == code
    assert done.stderr.startswith(b"stopped by SIGTERM") == (not ignored)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_output_that_is_gone_does_not_change_how_a_run_ends(terminal, tmp_path, start):
    """A terminal that hangs up, and a reader that Ctrl-C has ended, as in `2>&1 | tee log`."""
    cfg = config(tmp_path, *LONG)
    output, end = pty.openpty() if terminal else os.pipe()
    takes_terminal = {"stdin": end, "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}
    options = {"stdout": end, "stderr": end} | (takes_terminal if terminal else {})
    words = command(cfg, *LONG, f"trainer.enable_progress_bar={str(terminal).lower()}")
    process = start(words, tmp_path, **options)
    os.close(end)
    while process.poll() is None and not trains(run_folder(cfg)):
        if select.select([output], [], [], 0.02)[0]:
            os.read(output, 10_000)
    os.close(output)
    if not terminal:
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == (129 if terminal else 130)
    assert (run_folder(cfg) / "last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("parallel", [True, False])
def test_a_signal_ends_a_multirun(parallel, by, tmp_path, start):
    """The process of each job in training saves its state and ends; no further job starts."""
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] * parallel
    process = start(command(config(tmp_path), "-m", *LONG, *launcher, "seed=1,2,3"), tmp_path)
    folders = [run_folder(config(tmp_path, *LONG, f"seed={seed}")) for seed in (1, 2, 3)]
    active = folders[: 1 + parallel]
    wait_for(process, lambda: all(trains(folder) for folder in active))
    process.send_signal(by)
    assert process.wait(timeout=60) == (-by if by == signal.SIGKILL else 128 + by)
    for folder in active:
        with FileLock(folder / ".lock").acquire(timeout=60):
            assert (folder / "last.ckpt").exists() == (parallel or by != signal.SIGKILL)
    assert not any(folder.exists() for folder in folders[len(active) :])
    ps = ["ps", "-s", str(process.pid)]
    assert within(20, lambda: subprocess.run(ps, capture_output=True).returncode != 0)  # no process is left


@pytest.mark.parametrize(
    ("what", "error"), [(Killed(), Killed), (RuntimeError("[enforce fail] unexpected pos 64"), Exception)]
)
def test_a_run_resumes_after(what, error, tmp_path, monkeypatch):
    """A kill in a save, and a disk that is full, of which torch says this."""
    cfg, saves, save = config(tmp_path, outputs="disturbed"), list[str](), torch.save

    def disturbed(checkpoint, file):
        saves.append(file.name)
        save(checkpoint, file)
        if len(saves) == 6:
            file.truncate(file.tell() // 2)
            raise what

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disturbed)
        with pytest.raises(error) as raised:
            run(cfg)
    assert error is Killed or "cannot be written" in str(raised.value)
    assert step_of(run_folder(cfg) / "last.ckpt") > 0
    check_same(cfg, config(tmp_path))
    assert not list(run_folder(cfg).glob("*.part"))


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
