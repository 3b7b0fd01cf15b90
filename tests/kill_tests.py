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
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.helpers import MEASURED

ROOT = Path(__file__).parent.parent
ATTEMPTS = 6  # a command is killed at most as often
PATHS = ["paths.outputs={here}", "paths.prepared={here}/../prepared"]
SMALL = [f"trainer.num_{kind}_tasks=20" for kind in ("val", "test")]
SMALL += ["trainer.num_threads=1", "trainer.enable_progress_bar=false", "logger=csv"]


def training(max_steps: int, val_check_interval: int, save_every_n_steps: int) -> list[str]:
    lengths = [f"trainer.max_steps={max_steps}", f"trainer.val_check_interval={val_check_interval}"]
    return ["train.py", *SMALL, *PATHS, *lengths, f"trainer.save_every_n_steps={save_every_n_steps}"]


SINE = [*training(240, 40, 7), "data=sine", "shots=5"]
GRID = [*SINE, "method=lstm", "seed=0,1,2"]
CASES = {  # {here}: the command's own folder; {run}: the folder of a finished run
    "lstm": [*training(1500, 250, 50), "data=sine", "shots=5", "method=lstm"],
    "maml": [*SINE, "method=maml"],
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
    run = next((path.parent for path in here.rglob("result.json")), None)
    program, *words = [word.format(here=here, run=run) for word in CASES[case]]
    command = [sys.executable, str(ROOT / program), *words]
    with here.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=here, start_new_session=True)


def processes(*options: str) -> dict[int, str]:
    """The processes that `ps` finds, as number → command."""
    found = subprocess.run(["ps", "-wwo", "pid=,args=", *options], capture_output=True, text=True).stdout
    return {int(pid): args for pid, args in (line.split(maxsplit=1) for line in found.splitlines())}


def all_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a command and all its processes end in time; those that do not are killed."""
    end = time.monotonic() + seconds
    while left := processes("-s", str(process.pid)) or process.poll() is None:
        if time.monotonic() > end:
            print("left behind:", left, file=sys.stderr)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
        process.poll()
        time.sleep(0.1)
    return True


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
    if path.name == "metrics.csv":
        return [line for line in path.read_text().splitlines() if "per_second" not in line]
    if path.name == "best.ckpt":
        state = torch.load(path, weights_only=True)
        return state["global_step"], {name: w.numpy().tobytes() for name, w in state["state_dict"].items()}
    return path.read_bytes().replace(bytes(here), b"") if path.suffix in (".csv", ".npy") else "exists"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60, help="no new command after them")
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    outputs = args.outputs.absolute()
    random_, began, kills, wrong = random.Random(args.seed), time.monotonic(), Counter[str](), 0
    undisturbed: dict[str, tuple[dict[str, Any], float]] = {}
    for case in dict.fromkeys(["maml", *args.cases]):
        here, started = outputs / case.replace(" ", "-"), time.monotonic()
        make_folder(here, case)
        assert start(case, here).wait() == 0, here.with_suffix(".log").read_text()
        undisturbed[case] = contents(here), time.monotonic() - started
    for number, case in enumerate(itertools.cycle(args.cases)):
        if kills.total() >= args.kills or time.monotonic() - began > 60 * args.minutes:
            break
        wanted, seconds = undisturbed[case]
        here = outputs / f"command{number}"
        make_folder(here, case)
        for attempt in range(ATTEMPTS + 1):
            process, how, right = start(case, here), "", {0}
            try:
                process.wait(random_.uniform(0.1, 0.95) * seconds if attempt < ATTEMPTS else 900)
            except subprocess.TimeoutExpired:
                how, right = kill(process, case, random_)
                kills[f"{case}: {how}"] += 1
            ended, code, log = (
                all_ended(process, 60),
                process.returncode,
                here.with_suffix(".log").read_text(),
            )
            if not ended or code not in right or ("Traceback" in log and "KeyboardInterrupt" not in log):
                print(f"{here.name}, {case}, {how}: exit code {code}\n{log}", file=sys.stderr, flush=True)
                wrong += 1
            if code == 0:
                break
        found = contents(here)
        names = sorted(wanted.keys() | found.keys())
        if differing := [name for name in names if found.get(name) != wanted.get(name)]:
            print(f"{here.name}, {case}: differs in {differing}", file=sys.stderr, flush=True)
            wrong += 1
        else:
            shutil.rmtree(here)
        print(f"{here.name}, {case}: {kills.total()} kills so far, {wrong} wrong", flush=True)
    print(*(f"{count} {how}" for how, count in sorted(kills.items())), sep="\n")
    print(f"{kills.total()} kills, {wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
