"""Interrupted by time, by a signal or by a full disk: what is saved is whole, and the run ends as undisturbed."""

import errno
import fcntl
import io
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig
from rich.console import Console

from fewshot import jobs, signals
from fewshot.cli import failures, main
from fewshot.config.compose import CONF
from fewshot.config.run_id import run_folder
from fewshot.errors import UserError
from fewshot.training import build, callbacks
from fewshot.training.checkpoints import AtomicCheckpointIO
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run as train
from tests.conftest import Start
from tests.helpers import MEASURED, TINY, config, evaluation, kill_at, rows
from tests.test_cli import call

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = CONF.parent
SLOW = [
    "trainer.max_steps=100000",
    "trainer.val_check_interval=50000",
    "trainer.save_every_n_steps=50000",
]  # stopped before it saves
SLOW += ["trainer.max_time=00:00:05:00"]  # ends by itself if the test is killed


def same_files(cfg: DictConfig, undisturbed: DictConfig) -> None:
    first, second = run_folder(undisturbed), run_folder(cfg)
    assert first.name == second.name
    assert (first / "test_scores.csv").read_bytes() == (second / "test_scores.csv").read_bytes()
    assert rows(first / "metrics.csv") == rows(second / "metrics.csv")
    states = [torch.load(folder / "best.ckpt", weights_only=True) for folder in (first, second)]
    assert states[0]["global_step"] == states[1]["global_step"]
    assert all(torch.equal(w, states[1]["state_dict"][name]) for name, w in states[0]["state_dict"].items())


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in MEASURED}


def test_stopped_by_time_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = train(config(tmp_path))
    done = [0]
    original = callbacks.TrainMetrics.on_train_batch_end

    def counting(self: Any, trainer: Any, *arguments: Any) -> None:
        done[0] = trainer.global_step
        original(self, trainer, *arguments)

    monkeypatch.setattr(callbacks.TrainMetrics, "on_train_batch_end", counting)
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: float(done[0]))  # a second an update
    # 5, 15, 35: where the log gets a row; 10, 20: where a validation is due; 20 again: nothing is left to do
    statuses = []
    for second in (3, 5, 10, 15, 20, 20, 33, 35, 60):
        cfg = config(tmp_path, f"trainer.max_time=00:00:00:{second:02}", outputs="stopped")
        result = train(cfg)
        statuses.append(result["status"])
        assert result["train_tasks"] == 2 * min(second, 40)
    assert statuses == [*["timeout"] * 8, "finished"]
    assert without_times(result) == without_times(undisturbed)
    same_files(cfg, config(tmp_path))


def test_time_that_is_over_has_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = f"paths.outputs={tmp_path / 'outputs'} paths.prepared={tmp_path / 'prepared'}"
    command = ["data=sine method=lstm", *TINY, *SLOW, "trainer.max_time=00:00:00:01", paths]
    assert call(monkeypatch, " ".join(command)) == 124
    assert "no test score: timeout" in capfd.readouterr().out


def command_of(cfg: DictConfig, *more: str) -> list[str]:
    paths = [f"paths.{key}={cfg.paths[key]}" for key in ("outputs", "prepared")]
    return [sys.executable, str(ROOT / "train.py"), "data=sine", "method=lstm", *TINY, *paths, *more]


def wait_for(process: subprocess.Popen[str], seen: Callable[[], bool]) -> None:
    while process.poll() is None and not seen():
        time.sleep(0.01)


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether a handler for SIGTERM stands, in Linux' words."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_in_training(by: signal.Signals, tmp_path: Path, start: Start) -> None:
    longer = ["trainer.max_steps=500", "trainer.val_check_interval=250", "trainer.save_every_n_steps=250"]
    cfg = config(tmp_path, *longer, outputs="stopped")
    process = start(command_of(cfg, *longer), tmp_path)
    metrics = run_folder(cfg) / "metrics.csv"
    wait_for(process, lambda: metrics.exists() and len(rows(metrics)) > 10)
    process.send_signal(by)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + by
    saved = re.search(rf"\nstopped by {by.name}: the same command goes on from update (\d+) of 500\n$", err)
    assert saved
    assert int(saved[1]) > 0
    assert "Traceback" not in out + err
    assert not (run_folder(cfg) / "result.json").exists()
    assert torch.load(run_folder(cfg) / "last.ckpt", weights_only=True)["global_step"] == int(saved[1])
    assert without_times(train(cfg)) == without_times(train(config(tmp_path, *longer)))
    same_files(cfg, config(tmp_path, *longer))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(("program", "by"), [("train", signal.SIGTERM), ("evaluate", signal.SIGINT)])
def test_stopped_by_a_signal_during_the_imports(
    by: signal.Signals, program: str, tmp_path: Path, start: Start
) -> None:
    process = start([sys.executable, str(ROOT / f"{program}.py"), "run=nowhere"], tmp_path)
    wait_for(process, lambda: listens(process))
    process.send_signal(by)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + by
    assert (out, err) == ("", f"stopped by {by.name}: nothing is lost, give the same command again\n")


def test_a_reader_that_is_gone_does_not_change_how_a_run_ends(tmp_path: Path, start: Start) -> None:
    """As `2>&1 | tee` is on Ctrl-C."""
    cfg = config(tmp_path, *SLOW)
    process = start(command_of(cfg, *SLOW), tmp_path)
    metrics = run_folder(cfg) / "metrics.csv"
    wait_for(process, lambda: metrics.exists() and len(rows(metrics)) > 10)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert (run_folder(cfg) / "last.ckpt").exists()


def test_a_terminal_that_hangs_up_is_a_signal_like_others(tmp_path: Path, start: Start) -> None:
    cfg = config(tmp_path, *SLOW)
    master, slave = pty.openpty()
    process = start(
        command_of(cfg, *SLOW, "trainer.enable_progress_bar=true"),
        tmp_path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    metrics = run_folder(cfg) / "metrics.csv"
    while process.poll() is None and not (metrics.exists() and len(rows(metrics)) > 10):
        if select.select([master], [], [], 0.02)[0]:
            os.read(master, 10_000)
    os.close(master)
    assert process.wait(timeout=60) == 129
    assert (run_folder(cfg) / "last.ckpt").exists()


def test_a_signal_that_a_cell_did_not_heed_ends_the_multirun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(cfg: DictConfig) -> dict[str, str]:
        seen.append(cfg.seed)
        monkeypatch.setattr(signals, "asked", signal.SIGTERM)
        return {"status": "diverged"}

    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1"])
    assert main(run, "train") == 143
    assert seen == [0]
    assert "seed=0: diverged" in capfd.readouterr().err


def test_what_goes_on_is_the_command_without_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "method=lstm", "overwrite=true"])
    assert signals.again() == "the same command without overwrite=true"
    monkeypatch.setattr(sys, "argv", ["train.py", "method=lstm"])
    assert signals.again() == "the same command"


def test_a_cell_does_not_keep_the_threads_of_the_one_before() -> None:
    own = build.OWN_THREADS
    try:
        build.set_threads(own + 1)
        build.set_threads(0)
        assert torch.get_num_threads() == own
    finally:
        torch.set_num_threads(1)


def test_a_signal_ends_a_multirun(tmp_path: Path, start: Start) -> None:
    cfg = config(tmp_path, *SLOW)
    command = command_of(cfg, "-m", *SLOW, "method.lr=1e30,0.001", "seed=1,2")
    process = start(command, tmp_path)
    metrics = run_folder(config(tmp_path, *SLOW, "seed=1", "method.lr=0.001")) / "metrics.csv"
    wait_for(process, lambda: metrics.exists() and len(rows(metrics)) > 5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "2 of 2 cells have no result" in err
    assert "stopped by SIGTERM: the same command goes on from update" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_multirun_of_several_at_a_time(
    by: signal.Signals, tmp_path: Path, start: Start
) -> None:
    """Whoever runs the cells of a launcher that has gone saves them, and ends."""
    cfg = config(tmp_path, *SLOW)
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    command = command_of(cfg, "-m", *SLOW, *parallel, "seed=1,2,3")
    process = start(command, tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)})
    folders = [run_folder(config(tmp_path, *SLOW, f"seed={seed}")) for seed in (1, 2)]
    metrics = [folder / "metrics.csv" for folder in folders]
    wait_for(process, lambda: all(file.exists() and len(rows(file)) > 5 for file in metrics))
    process.send_signal(by)
    assert process.wait(timeout=60) == (-9 if by == signal.SIGKILL else 128 + by)
    for folder in folders:
        with FileLock(folder / ".lock").acquire(timeout=60):  # its process has ended
            assert (folder / "last.ckpt").exists()
    assert not run_folder(config(tmp_path, *SLOW, "seed=3")).exists()
    if by != signal.SIGKILL:
        assert not list(tmp_path.glob("cells-*"))


def test_the_temporary_folder_has_no_part_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, full)
    assert train(config(tmp_path))["status"] == "finished"


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def half(checkpoint: Any, file: Any) -> None:
        buffer = io.BytesIO()
        original(checkpoint, buffer)
        file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        raise KeyboardInterrupt

    original = torch.save
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_kill_during_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = train(config(tmp_path))
    cfg = config(tmp_path, outputs="killed")
    kill_at(21, cfg, monkeypatch)
    (run_folder(cfg) / "last.ckpt.part").write_bytes(b"half")
    assert without_times(train(cfg)) == without_times(undisturbed)
    same_files(cfg, config(tmp_path))
    assert not list(run_folder(cfg).glob("*.part"))


def test_a_full_disk_is_one_line_and_the_state_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, saves = config(tmp_path, outputs="full"), []

    def full(checkpoint: Any, file: Any) -> None:
        saves.append(file)
        if len(saves) == 6:
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
        original(checkpoint, file)

    original = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            UserError, match=r"cannot read or write a file: .*\.(ckpt|part) cannot be written"
        ):
            train(cfg)
    assert without_times(train(cfg)) == without_times(train(config(tmp_path)))
    same_files(cfg, config(tmp_path))


def test_another_number_of_threads_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tmp_path)
    kill_at(21, cfg, monkeypatch)
    train(config(tmp_path))
    assert "threads" not in capfd.readouterr().err
    cfg = config(tmp_path, "seed=1")
    kill_at(21, cfg, monkeypatch)
    capfd.readouterr()
    try:
        train(config(tmp_path, "seed=1", "trainer.num_threads=2"))
    finally:
        torch.set_num_threads(1)
    assert "the run had 1 threads so far and goes on with 2" in capfd.readouterr().err


def test_home_is_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEWSHOT_OUTPUTS", "~/outputs")
    assert call(monkeypatch, " ".join(["data=sine method=lstm", *TINY, "-m"])) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    [result] = (tmp_path / "home" / "outputs").rglob("result.json")
    assert {"best.ckpt", "last.ckpt", "metrics.csv"} <= {path.name for path in result.parent.iterdir()}
    tested = evaluate(evaluation(result.parent, tmp_path))
    assert tested["run_status"] == "finished"
    assert (
        call(
            monkeypatch,
            f"run=~/{result.parent.relative_to(tmp_path / 'home')} enable_progress_bar=false",
            "evaluate",
        )
        == 2
    )
    assert (
        call(
            monkeypatch,
            f"'run=\"~/{result.parent.relative_to(tmp_path / 'home')}\"' enable_progress_bar=false",
            "evaluate",
        )
        == 2
    )


def test_what_ignores_a_signal_goes_on_ignoring_it() -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom fewshot import stopping\n"
    code += "stopping.listen(); print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "True\n"


def test_a_folder_that_vanishes_ends_a_run_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network file system may."""
    cfg = config(tmp_path)
    original = callbacks.TrainMetrics.on_train_batch_end

    def vanish(self: Any, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == 9:
            shutil.rmtree(run_folder(cfg))
        original(self, trainer, *arguments)

    monkeypatch.setattr(callbacks.TrainMetrics, "on_train_batch_end", vanish)
    with pytest.raises(
        UserError, match=r"cannot read or write a file: .*; the same command goes on when it can"
    ):
        train(cfg)
    monkeypatch.setattr(callbacks.TrainMetrics, "on_train_batch_end", original)
    assert train(cfg)["status"] == "finished"


def test_a_clock_that_is_put_back() -> None:
    assert jobs.clock(-3600) == "0:00:00"


def test_a_job_whose_command_has_gone_ends_in_peace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that they shared is gone with it."""
    monkeypatch.setenv(jobs.FILE, str(tmp_path / "gone" / "cells.jsonl"))
    jobs.add({"name": "seed=0", "status": "finished", "ran": True})
    jobs.show(Console(), 2)
    assert jobs.outcomes() == []


def test_a_torn_line_of_another_node_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jobs.FILE, str(tmp_path / "cells.jsonl"))
    (tmp_path / "cells.jsonl").write_text('{"name": "a"}\n{"na{"name": "b"}\n{"name": "c"}\n')
    assert [outcome["name"] for outcome in jobs.ends()] == ["a", "c"]


def test_a_cell_that_was_queued_again_counts_as_it_ended_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(jobs.FILE, str(tmp_path / "cells.jsonl"))
    for cell, status in ((0, "finished"), (1, "stopped"), (1, "finished")):
        jobs.add({"cell": cell, "name": f"seed={cell}", "status": status, "multirun": True})
    assert [outcome["status"] for outcome in jobs.outcomes()] == ["finished", "finished"]
    assert failures() == ""


@pytest.mark.parametrize(
    ("force", "words"), [(True, "the same command without overwrite=true"), (False, "the same command")]
)
def test_what_goes_on_is_told_without_force(force: bool, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a cluster's job, whose command line is another."""
    monkeypatch.setattr(signals, "forced", force)
    assert signals.again() == words
