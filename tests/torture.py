"""Kills runs at random moments and compares what they end with: `python -m tests.torture --kills 100`.

Every run is killed, stopped by a signal, or stopped by time and then killed, again and again until it ends; its files
then equal those of a run that nobody disturbed, but for times and memory. `--outputs` on another file system than the
temporary folder's finds what is not renamed but copied.
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
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
MEASURED = ("train_seconds", "tasks_per_second", "peak_memory_bytes")
SMALL = ["trainer.val_tasks=20", "trainer.test_tasks=20", "trainer.threads=1", "trainer.bar=false", "logger=csv"]
RUNS = [
    ["data=sine", "method=lstm", "trainer.updates=1500", "trainer.val_every=250", "trainer.save_every=50"],
    ["data=sine", "method=maml", "trainer.updates=240", "trainer.val_every=40", "trainer.save_every=7"],
    ["data=glyphs", "method=oplstm", "trainer.updates=200", "trainer.val_every=50", "trainer.save_every=9"],
    ["data=glyphs", "method=lstm", "trainer.updates=12", "trainer.val_every=5", "trainer.save_every=1"],
]


def command(overrides: list[str], outputs: Path, prepared: Path) -> list[str]:
    paths = [f"paths.outputs={outputs}", f"paths.prepared={prepared}"]
    return [sys.executable, str(ROOT / "train.py"), *overrides, *SMALL, *paths]


def files(outputs: Path) -> dict[str, Any]:
    """What a run leaves, without what is measured in seconds and bytes."""
    [result] = outputs.rglob("result.json")
    folder, kept = result.parent, {}
    kept["result.json"] = {k: v for k, v in json.loads(result.read_text()).items() if k not in MEASURED}
    lines = (folder / "metrics.csv").read_text().splitlines()
    kept["metrics.csv"] = [line for line in lines if "per_second" not in line]
    kept["test_scores.csv"] = (folder / "test_scores.csv").read_text()
    state = torch.load(folder / "best.ckpt", weights_only=True)
    kept["best.ckpt"] = (state["global_step"], {n: w.numpy().tobytes() for n, w in state["state_dict"].items()})
    kept["names"] = sorted(path.name for path in folder.iterdir())
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    chance, kills, wrong = random.Random(told.seed), 0, 0
    ways: dict[str, int] = {}
    undisturbed = []
    for number, overrides in enumerate(RUNS):
        outputs = told.outputs / f"undisturbed{number}"
        started = time.monotonic()
        subprocess.run(command(overrides, outputs, told.prepared), check=True, capture_output=True)
        undisturbed.append((files(outputs), time.monotonic() - started))
    for round_ in range(10**6):
        if kills >= told.kills:
            break
        number = round_ % len(RUNS)
        wanted, seconds = undisturbed[number]
        outputs, ended = told.outputs / f"round{round_}", False
        for attempt in range(40):
            timed = round_ // len(RUNS) % 2 == 1 and attempt % 2 == 0  # half of the runs meet the time limit as well
            limit = [f"trainer.max_time=00:00:00:{attempt // 2 + 1:02}"] if timed else []
            process = subprocess.Popen(
                command([*RUNS[number], *limit], outputs, told.prepared),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ,
            )
            by = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            try:
                out, err = process.communicate(timeout=chance.uniform(0.15, 0.9) * seconds if attempt < 10 else None)
            except subprocess.TimeoutExpired:
                process.send_signal(by)
                out, err = process.communicate()
                kills += 1
                ways[by.name] = ways.get(by.name, 0) + 1
            code = process.returncode
            right = (0, 124, 128 + by, -by)  # the last before the handlers stand, or when Python takes them down
            if "Traceback" in out + err or code not in right:
                print(f"round {round_}, {by.name}: exit code {code}\n{out}\n{err}", file=sys.stderr)
                wrong += 1
            if code == 124:
                ways["time"] = ways.get("time", 0) + 1
            if code == 0:
                ended = True
                break
        found = files(outputs) if ended else None
        differing = [name for name in wanted if not found or found[name] != wanted[name]]
        if differing:
            print(f"round {round_} ({RUNS[number]}): differs in {differing}", file=sys.stderr)
            wrong += 1
        else:
            shutil.rmtree(outputs)
        print(f"round {round_}: {kills} kills so far, {wrong} wrong", flush=True)
    print(f"{kills} kills ({ways}), {round_} runs, {wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
