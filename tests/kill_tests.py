"""Kills commands at random moments and compares what they end with: `python -m tests.kill_tests --kills 200`.

Each command is killed or stopped by a signal again and again, and repeated until it ends. Its files must then
equal those of an undisturbed one, except for times and memory, and no process may be left behind.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.helpers import MEASURED, within

ROOT = Path(__file__).parent.parent
ATTEMPTS = 6  # a command is killed at most as often
SMALL = ["trainer.num_val_tasks=20", "trainer.num_test_tasks=20", "trainer.num_threads=1", "logger=csv"]
SMALL += ["trainer.enable_progress_bar=false", "paths.outputs={here}", "paths.prepared={here}/../prepared"]


def training(max_steps: int, val_check_interval: int, save_every_n_steps: int) -> list[str]:
    lengths = [f"trainer.max_steps={max_steps}", f"trainer.val_check_interval={val_check_interval}"]
    return ["train.py", *SMALL, *lengths, f"trainer.save_every_n_steps={save_every_n_steps}"]


SINE = [*training(240, 40, 7), "data=sine", "shots=5"]
GRID = [*SINE, "method=lstm", "seed=0,1,2"]
CASES = {  # {here}: the command's own folder; {run}: the folder of a finished run
    "lstm": [*training(1500, 250, 50), "data=sine", "shots=5", "method=lstm"],
    "maml": [*SINE, "method=maml"],
    "compiled": [*training(1500, 250, 50), "data=sine", "shots=5", "method=lstm", "trainer.compile=true"],
    "oplstm": [*training(200, 50, 9), "data=glyphs", "method=oplstm"],
    "protonet": [*training(200, 50, 9), "data=glyphs", "method=protonet", "predictions=true"],
    "large states": [*training(12, 5, 1), "data=glyphs", "method=lstm"],
    "preparation": [*training(4, 2, 1), "data=glyphs", "method=protonet", "paths.prepared={here}"],
    "two processes": [*SINE, "method=lstm", "trainer.devices=2"],
    "multirun": [*GRID, "-m"],
    "joblib": [*GRID, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "-m"],
    "evaluation": ["evaluate.py", "run={run}", "tasks=200", "num_threads=1", "enable_progress_bar=false"],
}


def make_folder(here: Path, case: str) -> None:
    here.mkdir(parents=True)
    if case == "evaluation":
        shutil.copytree(here.parent / "maml", here, dirs_exist_ok=True)


def start(case: str, here: Path) -> subprocess.Popen[bytes]:
    """Starts a case's command, in a session of its own."""
    run = next((path.parent for path in here.rglob("seed*/result.json")), None)
    program, *words = [word.format(here=here, run=run) for word in CASES[case]]
    command = [sys.executable, str(ROOT / program), *words]
    with here.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=here, start_new_session=True)


def processes(*options: str) -> dict[int, str]:
    """The processes that `ps` finds, as number → command."""
    found = subprocess.run(["ps", "-wwo", "pid=,args=", *options], capture_output=True, text=True).stdout
    return {int(pid): args for pid, args in (line.split(maxsplit=1) for line in found.splitlines())}


def kill(process: subprocess.Popen[bytes], case: str, random_: random.Random) -> tuple[str, set[int]]:
    """Kills a command, or one of two processes that share a run; how, and the exit codes that are right."""
    children = processes("--ppid", str(process.pid)).items()
    others = [pid for pid, args in children if case == "two processes" and "spawn_main" in args]
    if others and random_.random() < 0.5:
        os.kill(others[0], signal.SIGKILL)
        return "SIGKILL of the other process", {0, 1}
    by = random_.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    process.send_signal(by)
    return by.name, {0, 128 + by, -by}  # the last before the handlers are installed


def contents(here: Path) -> dict[str, Any]:
    """What a command leaves, except for times and memory."""
    paths = {str(path.relative_to(here)): path for path in here.rglob("*") if path.is_file()}
    return {name: content(path, here) for name, path in paths.items() if not name.startswith("multirun")}


def content(path: Path, here: Path) -> Any:
    if path.suffix == ".json" and path.name != "split.json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name not in MEASURED}
    if path.name == "best.ckpt":
        state = torch.load(path, weights_only=True)
        return state["global_step"], {name: w.numpy().tobytes() for name, w in state["state_dict"].items()}
    return path.read_bytes().replace(bytes(here), b"") if path.suffix in (".csv", ".npy") else "exists"


def disturbed(case: str, here: Path, seconds: float, random_: random.Random, left: int) -> tuple[int, bool]:
    """Runs a command, with `left` kills at most; how often it was killed, and whether each ended rightly."""
    right = True
    for kills in range(ATTEMPTS + 1):
        process, how, codes = start(case, here), "", {0}
        try:
            process.wait(random_.uniform(0.1, 0.95) * seconds if kills < min(ATTEMPTS, left) else 900)
        except subprocess.TimeoutExpired:
            how, codes = kill(process, case, random_)
        session = ["-s", str(process.pid)]
        ended = within(60, lambda: process.poll() is not None and not processes(*session))  # noqa: B023
        log = here.with_suffix(".log").read_text()
        if not ended:
            log += f"left behind: {processes(*session)}"
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        if not ended or code not in codes or ("Traceback" in log and "KeyboardInterrupt" not in log):
            print(f"{here.name}, {case}, {how}: exit code {code}\n{log}", file=sys.stderr, flush=True)
            right = False
        if code == 0 or not how:
            break
    return kills, right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60, help="no new command after them")
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    outputs, random_ = args.outputs.absolute(), random.Random(args.seed)
    began, kills, wrong = time.monotonic(), 0, 0
    undisturbed: dict[str, tuple[dict[str, Any], float]] = {}
    for case in dict.fromkeys(["maml", *args.cases]):
        here, started = outputs / case.replace(" ", "-"), time.monotonic()
        make_folder(here, case)
        assert start(case, here).wait() == 0, here.with_suffix(".log").read_text()
        undisturbed[case] = contents(here), time.monotonic() - started
    for number, case in enumerate(itertools.cycle(args.cases)):
        if kills >= args.kills or time.monotonic() - began > 60 * args.minutes:
            break
        (wanted, seconds), here = undisturbed[case], outputs / f"command{number}"
        make_folder(here, case)
        more, right = disturbed(case, here, seconds, random_, args.kills - kills)
        found, kills = contents(here), kills + more
        names = wanted.keys() | found.keys()
        if differing := sorted(name for name in names if found.get(name) != wanted.get(name)):
            print(f"{here.name}, {case}: differs in {differing}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(here)
        wrong += not right or bool(differing)
        print(f"{here.name}, {case}: {kills} kills so far, {wrong} wrong", flush=True)
    print(f"{kills} kills, {wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
