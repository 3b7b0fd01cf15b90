"""Two commits beside each other: `python -m benchmarks.compare HEAD~5 HEAD --cases sine/oplstm`; `.` is what
is here.

Each is checked out into a temporary worktree. Two processes, with these benchmarks and with each one's
`fewshot`, take turns at the same case, so that what else the machine does falls on both alike.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.__main__ import chosen
from benchmarks.tables import number
from fewshot.errors import UserError

HERE = Path(__file__).parent
TURN = 0.3  # seconds
FEWEST = 3  # rounds
KINDS = ("train", "test")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument(
        "commits", nargs=2, metavar="COMMIT", help="OLD and NEW, as git names them; . is what is here"
    )
    parser.add_argument("--cases", help="patterns, as sine/oplstm,omniglot/*")
    parser.add_argument("--seconds", type=float, default=6, help="a case, training and test each (default 6)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, as train.py takes them"
    )
    return parser.parse_args(given)


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of the commit; UserError where there is no such commit."""
    if commit == ".":
        yield HERE.parent
        return
    git = ["git", "-C", str(HERE.parent), "worktree"]
    added = subprocess.run(
        [*git, "add", "--detach", str(folder), commit], capture_output=True, text=True, check=False
    )
    if added.returncode:
        raise UserError(f"{commit} cannot be checked out: {added.stderr.strip().splitlines()[-1]}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=False)


class Process:
    """These benchmarks with the `fewshot` of one checkout."""

    def __init__(self, benchmarks: Path, checkout: Path, args: argparse.Namespace) -> None:
        paths = [str(benchmarks), str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
        # -P: the current folder, which may hold another checkout, is not searched
        command = [sys.executable, "-P", "-m", "benchmarks.turns", str(args.threads), args.device, *args.set]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        self.errors = benchmarks / f"{checkout.name}.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        self.package = Path(self.answer()["package"])
        if self.package != checkout / "fewshot":
            raise UserError(f"{self.package} was imported instead of {checkout / 'fewshot'}")

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            lines = self.errors.read_text().strip().splitlines() or ["no message"]
            raise UserError(f"{self.errors.stem} cannot be timed by these benchmarks: {lines[-1]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return self.answer()


@contextmanager
def process_of(benchmarks: Path, checkout: Path, args: argparse.Namespace) -> Iterator[Process]:
    process = Process(benchmarks, checkout, args)
    try:
        yield process
    finally:
        process.process.terminate()
        process.process.communicate()


def rounds(old: Process, new: Process, name: str, kind: str, seconds: float) -> dict[str, Any]:
    """Medians of both, and the ratio new / old of each round; or why there is none."""
    sides: list[list[dict[str, Any]]] = [[], []]
    for number_of_round in range(max(FEWEST, round(seconds / 2 / TURN)) + 1):
        for process, side in zip((old, new), sides, strict=True):
            found = process.ask(name=name, kind=kind, seconds=TURN)
            if "error" in found:
                return {"error": f"{process.errors.stem}: {found['error']}"}
            if number_of_round > 0:  # the first one warms up
                side.append(found)
    of_rounds = {
        what: [[statistics.median(turn[what]) for turn in side] for side in sides] for what in ("wall", "cpu")
    }
    ratios = sorted(b / a for a, b in zip(*of_rounds["cpu"], strict=True))
    return {what: [1e3 * statistics.median(side) for side in both] for what, both in of_rounds.items()} | {
        "ratio": statistics.median(ratios),
        "from": ratios[len(ratios) // 10],
        "to": ratios[len(ratios) * 9 // 10],
    }


def main(given: Sequence[str] | None = None) -> list[dict[str, Any]]:
    args, console = arguments(given), Console(width=120)
    names, found = chosen(args.cases, slow=False), []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory())).resolve()
        shutil.copytree(HERE, folder / "own" / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
        checkouts = [
            stack.enter_context(checked_out(commit, folder / side))
            for commit, side in zip(args.commits, ("old", "new"), strict=True)
        ]
        old, new = (stack.enter_context(process_of(folder / "own", checkout, args)) for checkout in checkouts)
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        for name, kind in progress.track([(name, kind) for name in names for kind in KINDS]):
            found.append({"case": name, "kind": kind} | rounds(old, new, name, kind, args.seconds))
    console.print(table(args.commits, found))
    for row in found:
        if "error" in row:
            console.print(f"{row['case']}, {row['kind']}: {row['error']}", markup=False)
    return found


def table(commits: Sequence[str], found: list[dict[str, Any]]) -> Table:
    shown = Table(title=f"ms a step: old {commits[0]}, new {commits[1]}", box=box.SIMPLE_HEAD)
    for head in ("case", "step", "old", "CPU", "new", "CPU", "new/old of CPU", "10–90% of rounds"):
        shown.add_column(head, justify="left" if head in ("case", "step") else "right")
    for row in found:
        if "error" in row:
            continue
        cells = [number(row[what][side]) for side in (0, 1) for what in ("wall", "cpu")]
        spread = f"{row['from']:.2f}–{row['to']:.2f}"
        shown.add_row(row["case"], row["kind"], *cells, f"{row['ratio']:.3f}", spread)
    return shown


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
