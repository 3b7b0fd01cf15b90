"""Kills commands at random moments and compares what they end with: `python -m tests.torture --kills 200`.

Every command is killed, stopped by a signal, or stopped by time and then killed, again and again until it ends; its
files then equal those of one that nobody disturbed, but for times and memory. `--outputs` on another file system than
the temporary folder's finds what is not renamed but copied.
"""

import argparse
import atexit
import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
MEASURED = ("train_seconds", "tasks_per_second", "peak_memory_bytes")
SMALL = [
    "trainer.num_val_tasks=20",
    "trainer.num_test_tasks=20",
    "trainer.num_threads=1",
    "trainer.enable_progress_bar=false",
    "logger=csv",
]
TRAIN, OURS = ["train.py", *SMALL], ["paths.outputs={here}", "paths.prepared={prepared}"]
SINE = [
    *TRAIN,
    *OURS,
    "data=sine",
    "shots=5",
    "trainer.max_steps=240",
    "trainer.val_check_interval=40",
    "trainer.save_every_n_steps=7",
]
GLYPHS = [*TRAIN, *OURS, "data=glyphs", "shots=1"]
CELLS = [*SINE, "-m", "method=lstm", "seed=0,1,2"]
TRIALS = [
    "search=lstm_sine",
    "profile=quick",
    "trial=0,1",
    "trainer.max_steps=60",
    "trainer.val_check_interval=20",
]
CASES = {  # a command: {here} is its own folder, {prepared} a shared one, {trial} the folder of a trial that is over
    "a long run": [
        *SINE,
        "method=lstm",
        "trainer.max_steps=1500",
        "trainer.val_check_interval=250",
        "trainer.save_every_n_steps=50",
    ],
    "a run": [*SINE, "method=maml"],
    "images": [
        *GLYPHS,
        "method=oplstm",
        "trainer.max_steps=200",
        "trainer.val_check_interval=50",
        "trainer.save_every_n_steps=9",
    ],
    "large states": [
        *GLYPHS,
        "method=lstm",
        "trainer.max_steps=12",
        "trainer.val_check_interval=5",
        "trainer.save_every_n_steps=1",
    ],
    "preparation": [
        *GLYPHS,
        "method=protonet",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "paths.prepared={here}",
    ],
    "two processes": [*SINE, "method=lstm", "trainer.devices=2"],
    "cells": CELLS,
    "cells at a time": [*CELLS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "a search": [*TRAIN, *OURS, "-m", *TRIALS],
    "an evaluation": [
        "evaluate.py",
        "run={trial}",
        "tasks=200",
        "num_threads=1",
        "enable_progress_bar=false",
    ],
    "a report": ["-m", "fewshot.report", "lstm_sine", *TRIALS[1:], *SMALL, "paths.outputs={here}"],
}
OF_TRIALS = ("an evaluation", "a report")


def command(case: str, here: Path, prepared: Path) -> list[str]:
    trial = next((path.parent for path in here.rglob("result.json")), here)
    words = [word.format(here=here, prepared=prepared, trial=trial) for word in CASES[case]]
    return [sys.executable, *([str(ROOT / words[0])] if words[0].endswith(".py") else [words[0]]), *words[1:]]


def files(here: Path) -> dict[str, Any]:
    """What a command leaves, without what is measured in seconds and bytes."""
    return {
        str(path.relative_to(here)): kept(path, here) for path in sorted(here.rglob("*")) if path.is_file()
    }


def kept(path: Path, here: Path) -> Any:
    if path.name == "result.json" or (path.parent.name == "evaluations" and path.suffix == ".json"):
        return {key: value for key, value in json.loads(path.read_text()).items() if key not in MEASURED}
    if path.name == "metrics.csv":
        return [line for line in path.read_text().splitlines() if "per_second" not in line]
    if path.name == "best.ckpt":
        state = torch.load(path, weights_only=True)
        return state["global_step"], {
            name: weight.numpy().tobytes() for name, weight in state["state_dict"].items()
        }
    if path.name == "in_full.csv":
        return [{k: v for k, v in row.items() if "minutes" not in k} for row in csv.DictReader(path.open())]
    if path.suffix not in (".csv", ".npy"):
        return None  # that it is there
    return path.read_bytes().replace(bytes(here), b"")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60, help="no new round after them")
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    told.outputs, told.prepared = told.outputs.absolute(), told.prepared.absolute()
    chance, begun = random.Random(told.seed), time.monotonic()
    kills: dict[str, int] = dict.fromkeys(told.cases, 0)
    ways: dict[str, int] = {}
    undisturbed, wrong = {}, 0
    trials = told.outputs / "trials"
    if set(told.cases) & set(OF_TRIALS):
        subprocess.run(command("a search", trials, told.prepared), check=True, capture_output=True)
    for case in told.cases:
        here, started = told.outputs / f"undisturbed-{case.replace(' ', '-')}", time.monotonic()
        make(here, case, trials)
        subprocess.run(command(case, here, told.prepared), check=True, capture_output=True, cwd=here)
        undisturbed[case] = (files(here), time.monotonic() - started)
    round_ = 0
    while sum(kills.values()) < told.kills and time.monotonic() - begun < 60 * told.minutes:
        case = told.cases[round_ % len(told.cases)]
        wanted, seconds = undisturbed[case]
        here, ended = told.outputs / f"round{round_}", False
        make(here, case, trials)
        timed = case in ("a run", "a long run", "images")
        for attempt in range(40):
            by_time = timed and round_ // len(told.cases) % 2 == 1 and attempt % 2 == 0
            limit = [f"trainer.max_time=00:00:00:{attempt // 2 + 1:02}"] if by_time else []
            process = subprocess.Popen(
                [*command(case, here, told.prepared), *limit],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=here,
            )
            atexit.register(process.kill)  # whatever ends this program
            by = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            try:
                out, err = process.communicate(
                    timeout=chance.uniform(0.15, 0.9) * seconds if attempt < 10 else None
                )
            except subprocess.TimeoutExpired:
                process.send_signal(by)
                out, err = process.communicate()
                kills[case] += 1
                ways[by.name] = ways.get(by.name, 0) + 1
            code = process.returncode
            right = (
                0,
                124,
                128 + by,
                -by,
            )  # the last before the handlers stand, or when Python takes them down
            if "Traceback" in out + err or code not in right:
                print(f"round {round_}, {case}, {by.name}: exit code {code}\n{out}\n{err}", file=sys.stderr)
                wrong += 1
            if code == 124:
                ways["time"] = ways.get("time", 0) + 1
            if code == 0:
                ended = True
                break
        found = files(here) if ended else {}
        differing = sorted(
            name for name in wanted.keys() | found.keys() if found.get(name, 0) != wanted.get(name, 0)
        )
        if differing:
            print(f"round {round_} ({case}): differs in {differing}", file=sys.stderr)
            wrong += 1
        else:
            shutil.rmtree(here)
        print(f"round {round_}, {case}: {sum(kills.values())} kills so far, {wrong} wrong", flush=True)
        round_ += 1
    print(f"{sum(kills.values())} kills ({ways}; {kills}), {round_} commands, {wrong} wrong")
    return wrong > 0


def make(here: Path, case: str, trials: Path) -> None:
    """A command's folder, with trials to test or to report on where it needs them."""
    if case in OF_TRIALS:
        shutil.copytree(trials, here)
    else:
        here.mkdir(parents=True)


if __name__ == "__main__":
    sys.exit(main())
