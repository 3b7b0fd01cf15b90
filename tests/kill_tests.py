"""Kills commands at random moments and compares what they end with: `python -m tests.kill_tests --kills 200`.

Each command is killed or stopped by a signal again and again, and repeated until it ends. Its files must then equal those
of an undisturbed one, except for times and memory, and no process may be left behind.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tests.helpers import MEASURED

ROOT = Path(__file__).parent.parent
ATTEMPTS = 6  # a command is killed at most as often
PATHS = ["paths.outputs={here}", "paths.prepared={prepared}"]
SMALL = [f"trainer.num_{kind}_tasks=20" for kind in ("val", "test")]
SMALL += ["trainer.num_threads=1", "trainer.enable_progress_bar=false", "logger=csv"]


def training(max_steps: int, val_check_interval: int, save_every_n_steps: int) -> list[str]:
    lengths = [f"trainer.max_steps={max_steps}", f"trainer.val_check_interval={val_check_interval}"]
    return ["train.py", *SMALL, *PATHS, *lengths, f"trainer.save_every_n_steps={save_every_n_steps}"]


SINE = [*training(240, 40, 7), "data=sine", "shots=5"]
MULTIRUN = ["-m", *SINE, "method=lstm", "seed=0,1,2"]
CASES = {  # {here}: the command's own folder; {prepared}: a shared one; {run}: the folder of a finished run
    "lstm": [*training(1500, 250, 50), "data=sine", "shots=5", "method=lstm"],
    "maml": [*SINE, "method=maml"],
    "oplstm": [*training(200, 50, 9), "data=glyphs", "method=oplstm"],
    "protonet": [*training(200, 50, 9), "data=glyphs", "method=protonet", "predictions=true"],
    "large states": [*training(12, 5, 1), "data=glyphs", "method=lstm"],
    "preparation": [*training(4, 2, 1), "data=glyphs", "method=protonet", "paths.prepared={here}"],
    "two processes": [*SINE, "method=lstm", "trainer.devices=2"],
    "multirun": MULTIRUN,
    "joblib": [*MULTIRUN, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "evaluation": ["evaluate.py", "run={run}", "tasks=200", "num_threads=1", "enable_progress_bar=false"],
}


def start(case: str, here: Path, prepared: Path) -> subprocess.Popen[bytes]:
    """Starts a case's command, in a session of its own."""
    run = next((path.parent for path in here.rglob("result.json")), None)
    words = [word.format(here=here, prepared=prepared, run=run) for word in CASES[case]]
    program = next(word for word in words if word.endswith(".py"))
    words.remove(program)
    with here.with_suffix(".log").open("wb") as log:
        command = [sys.executable, str(ROOT / program), *words]
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=here, start_new_session=True)


def session(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of a command."""
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """The further processes that share its run."""
    command = ["ps", "-wwo", "pid=,args=", "--ppid", str(process.pid)]
    found = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in found if "spawn_main" in line]


def all_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a command and its processes end in time; those that do not are killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None and not session(process):
            return True
        time.sleep(0.1)
    print("left behind:", session(process), file=sys.stderr)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return False


def kill(process: subprocess.Popen[bytes], case: str, random_: random.Random) -> tuple[str, set[int]]:
    """Kills a command, or one of two processes that share a run; how, and the exit codes that are right then."""
    if case == "two processes" and random_.random() < 0.5 and (others := workers(process)):
        os.kill(others[0], signal.SIGKILL)
        return "SIGKILL of the other process", {0, 1}
    by = random_.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    process.send_signal(by)
    return by.name, {0, 128 + by, -by}  # the last before the handlers are installed


def contents(here: Path) -> dict[str, Any]:
    """What a command leaves, except for times and memory."""
    paths = [path for path in here.rglob("*") if path.is_file() and "multirun" not in path.parts]
    return {str(path.relative_to(here)): content(path, here) for path in paths}


def content(path: Path, here: Path) -> Any:
    if path.suffix == ".json" and path.name != "split.json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name not in MEASURED}
    if path.name == "metrics.csv":
        return [line for line in path.read_text().splitlines() if "per_second" not in line]
    if path.name == "best.ckpt":
        state = torch.load(path, weights_only=True)
        return state["global_step"], {name: w.numpy().tobytes() for name, w in state["state_dict"].items()}
    return path.read_bytes().replace(bytes(here), b"") if path.suffix in (".csv", ".npy") else "exists"


def make_folder(here: Path, case: str, outputs: Path) -> None:
    if case == "evaluation":
        shutil.copytree(outputs / "maml", here)
    else:
        here.mkdir(parents=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60, help="no new command after them")
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    outputs, prepared = args.outputs.absolute(), args.prepared.absolute()
    random_, began, kills, wrong, commands = random.Random(args.seed), time.monotonic(), Counter(), 0, 0  # type: ignore[var-annotated]
    undisturbed: dict[str, tuple[dict[str, Any], float]] = {}
    for case in ["maml", *args.cases] if "evaluation" in args.cases else args.cases:
        here, started = outputs / case.replace(" ", "-"), time.monotonic()
        if case not in undisturbed:
            make_folder(here, case, outputs)
            assert start(case, here, prepared).wait() == 0, here.with_suffix(".log").read_text()
            undisturbed[case] = contents(here), time.monotonic() - started
    while sum(kills.values()) < args.kills and time.monotonic() - began < 60 * args.minutes:
        case = args.cases[commands % len(args.cases)]
        wanted, seconds = undisturbed[case]
        here, code = outputs / f"command{commands}", -1
        make_folder(here, case, outputs)
        for attempt in range(ATTEMPTS + 1):
            process, how, right = start(case, here, prepared), "", {0}
            try:
                process.wait(random_.uniform(0.1, 0.95) * seconds if attempt < ATTEMPTS else 900)
            except subprocess.TimeoutExpired:
                how, right = kill(process, case, random_)
                kills[f"{case}: {how}"] += 1
            ended, code = all_ended(process, 60), process.returncode
            log = here.with_suffix(".log").read_text()
            if not ended or code not in right or ("Traceback" in log and "KeyboardInterrupt" not in log):
                print(f"{here.name}, {case}, {how}: exit code {code}\n{log}", file=sys.stderr, flush=True)
                wrong += 1
            if code == 0:
                break
        found = contents(here) if code == 0 else {}
        names = sorted(wanted.keys() | found.keys())
        if differing := [name for name in names if found.get(name) != wanted.get(name)]:
            print(f"{here.name}, {case}: differs in {differing}", file=sys.stderr, flush=True)
            wrong += 1
        else:
            shutil.rmtree(here)
        commands += 1
        print(f"{here.name}, {case}: {sum(kills.values())} kills so far, {wrong} wrong", flush=True)
    print(*(f"{number} {how}" for how, number in sorted(kills.items())), sep="\n")
    print(f"{sum(kills.values())} kills of {commands} commands, {wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
