"""Files damaged at random: run folders and reports; a part of `make grammar`.

A case copies small good files, damages one of them and asks for what reads it. It must end in the right result, or in
one line that names a file and the mend, before anything is trained; nothing is executed and no other file changes.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from fewshot.cli import main, run_evaluate, run_train
from fewshot.config.compose import CONF
from fewshot.report.figures import learning, logs_of
from fewshot.report.frame import load
from fewshot.report.runs import cells
from fewshot.report.summary import summarise
from fewshot.report.tested import of_study
from tests.made_files import fill_folder, picture
from tests.test_report import some, stored

SECONDS = 60  # a case that takes longer hangs
MENDS = "replace remove put delete keep leave give add save rename convert shrink pack overwrite=true needs take run mean"
EXECUTED = "executed"  # the folder that malice would make
SPLIT_OF = ("train", "train", "train", "val", "val", "test", "test")
MARKS: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1,
        2**63,
        10**30,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "../x",
        "\x1b[31m",
        "é",
        "1",
    ),
    *([], [1], [[]], {}, {"a": 1}, {"": {"": []}}, "x" * 10**5, "${oc.env:HOME}", "\ud800"),
]
for _ in range(3):
    MARKS.append(MARKS[-1] if isinstance(MARKS[-1], list) else [MARKS[-1]])


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (EXECUTED,)


def value(kind: int, number: int) -> int:
    """The grey of an image: no two share it."""
    return 12 * kind + 4 * number + 3


def names(classes: int = len(SPLIT_OF)) -> Iterator[tuple[str, int]]:
    for kind in range(classes):
        for number in range(3):
            yield f"kind{kind}/{kind}{number}.png", value(kind, number)


# ---------------------------------------------------------------- good files
def folders() -> dict[str, bytes]:
    return {name: picture(v) for name, v in names()}


def split_folders() -> dict[str, bytes]:
    return {f"{SPLIT_OF[int(name[4])]}/{name}": data for name, data in folders().items()}


# ---------------------------------------------------------------- damage
@dataclass
class Damage:
    """What was done, to which file."""

    what: str
    file: str


def of_bytes(dice: random.Random, data: bytes) -> tuple[str, bytes]:
    what = dice.choice(("cut", "flip", "flip", "empty", "noise", "longer", "zeros"))
    if what == "cut":
        return what, data[: dice.randrange(len(data) or 1)]
    if what == "flip":
        torn = bytearray(data)
        for _ in range(dice.choice((1, 1, 3, 20))):
            torn[dice.randrange(len(torn))] ^= 1 << dice.randrange(8)
        return what, bytes(torn)
    if what == "longer":
        return what, data + dice.randbytes(30)
    return what, {"empty": b"", "noise": dice.randbytes(200), "zeros": bytes(len(data))}[what]


def other_kind(dice: random.Random, place: Path) -> str:
    """The file becomes something that is no file, or another one."""
    what = dice.choice(("folder", "pipe", "link to nowhere", "link to itself", "link to a folder", "gone"))
    place.unlink()
    if what == "folder":
        place.mkdir()
    elif what == "pipe":
        os.mkfifo(place)
    elif what != "gone":
        place.symlink_to({"link to nowhere": "nowhere", "link to itself": place.name}.get(what, ".."))
    return what


def mark(dice: random.Random, node: Any) -> Any:
    """Plain data with one value, somewhere, that is another one, or gone, or there twice."""
    if isinstance(node, dict | list) and node and dice.random() < 0.85:
        key = dice.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if dice.random() < 0.1:
            node = node.copy()
            node.pop(key)
            return node
        changed = mark(dice, node[key])
        return node | {key: changed} if isinstance(node, dict) else [*node[:key], changed, *node[key + 1 :]]
    return dice.choice(MARKS)


# ---------------------------------------------------------------- what must come out
def trouble(error: str, place: Path) -> str | None:
    """What is wrong with a line that refuses."""
    if str(place) not in error:
        return "names no file"
    return None if re.search(rf"\b({MENDS.replace(' ', '|')})\b", error) else "no mend"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def over(*_: Any) -> None:
        raise TimeoutError(f"it takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def state(place: Path) -> dict[str, Any]:
    """The files below a folder, as they are."""
    found = {}
    for path in sorted(place.rglob("*")):
        ordinary = path.is_file() and not path.is_symlink()
        found[str(path)] = path.read_bytes() if ordinary else os.readlink(path) if path.is_symlink() else None
    return found


# ---------------------------------------------------------------- run folders and tables
SMALL = [
    *(
        "trainer.max_steps=6",
        "trainer.val_check_interval=3",
        "trainer.save_every_n_steps=2",
        "trainer.num_val_tasks=4",
        "trainer.num_test_tasks=4",
    ),
    *("trainer.num_threads=1", "trainer.enable_progress_bar=false", "method.meta_batch_size=1", "logger=csv"),
]
IMAGES = [
    *("method=protonet", "data=folder", "data.path=zoo", "data.size=8", "data.channels=1", "data.ways=2"),
    *("backbone.widths=[4,4]", "data.train_queries=1", "data.val_queries=1", "data.test_queries=1"),
]
RUNS = {"sine": ["data=sine", "method=lstm"], "images": IMAGES}


def asked(program: str, arguments: list[str], real: bool = False) -> tuple[int | str, str]:
    """The exit code, or what came through, and what was printed."""
    if real:
        command = [sys.executable, str(CONF.parent / f"{program}.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5 * SECONDS)
        return done.returncode, done.stdout + done.stderr
    before, printed = sys.argv, io.StringIO()
    sys.argv = [f"{program}.py", *arguments]
    try:
        with limited(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            return main(run_train if program == "train" else run_evaluate, program), printed.getvalue()
    except BaseException as error:
        return f"{type(error).__name__}: {error}", printed.getvalue()
    finally:
        sys.argv = before


def good_run(home: Path, kind: str) -> Path:
    """A finished run below `home`, with the images and the table that it is on, as they would be a moment before."""
    fill_folder(home / "zoo", split_folders())
    with contextlib.chdir(home):
        code, printed = asked(
            "train", [*RUNS[kind], *SMALL, "paths.outputs=outputs", "paths.prepared=prepared"]
        )
    assert code == 0, printed
    [result] = (home / "outputs").rglob("result.json")
    return result.parent.relative_to(home)


def damage_run(dice: random.Random, home: Path, folder: Path) -> Damage:
    files = ["result.json", "config.yaml", "last.ckpt", "best.ckpt", "test_scores.csv", "metrics.csv"]
    places = [folder / name for name in files]
    if (home / folder / "split.json").exists():
        places.append(folder / "split.json")
    place = home / dice.choice(places)
    if dice.random() < 0.2:
        return Damage(other_kind(dice, place), place.name)
    if dice.random() < 0.7:
        if place.suffix == ".json":
            place.write_text(json.dumps(mark(dice, json.loads(place.read_text()))))
            return Damage("marked", place.name)
        if place.suffix == ".yaml":
            changed = mark(dice, yaml.safe_load(place.read_text()))
            place.write_text(
                yaml.dump(changed) if dice.random() < 0.8 else f"!!python/object/apply:os.mkdir [{EXECUTED}]"
            )
            return Damage("marked", place.name)
        if place.suffix == ".ckpt":
            held = torch.load(place, weights_only=True)
            malice = dice.random() < 0.3
            held = held | {dice.choice(list(held)): Malice()} if malice else mark(dice, held)
            torch.save(held, place)
            return Damage("malice" if malice else "marked", place.name)
    what, data = of_bytes(dice, place.read_bytes())
    place.write_bytes(data)
    return Damage(what, place.name)


def faults_of_runs(number: int, seed: int, real_every: int = 50) -> Iterator[str]:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        home, good, folders_, means = Path(scratch).resolve() / "case", Path(scratch) / "good", {}, {}
        good.mkdir()
        for kind in RUNS:
            folders_[kind] = good_run(home, kind)
            home.rename(good / kind)
            means[kind] = json.loads((good / kind / folders_[kind] / "result.json").read_text())["mean"]
        for case in range(number):
            kind, program = dice.choice(list(RUNS)), dice.choice(("train", "train", "evaluate"))
            shutil.copytree(
                good / kind, home
            )  # with its dates: of these and the place a table's name is made
            damage = damage_run(dice, home, folder := folders_[kind])
            if program == "train" and damage.file != "result.json" and dice.random() < 0.85:
                (home / folder / "result.json").unlink(missing_ok=True)
            before = state(home / "zoo")
            told = ["paths.prepared=prepared"]
            told += (
                [*RUNS[kind], *SMALL, "paths.outputs=outputs"]
                if program == "train"
                else [f"run={folder}", "enable_progress_bar=false"]
            )
            with contextlib.chdir(home):
                code, printed = asked(program, told, real=case % real_every == real_every - 1)
            said = [line for line in printed.splitlines() if line.startswith("error: ")]
            wrong = None
            if code == 1 and damage.file == "last.ckpt":
                pass  # a traceback will do for a state that somebody tampered with
            elif code not in (0, 2) or "Traceback" in printed or "Warning" in printed:
                wrong = f"ended with {code}"
            elif code == 2 and len(said) != 1:
                wrong = f"{len(said)} lines"
            elif code == 2 and (
                re.search(r"^update \d", printed, re.M) or trouble(said[0], Path(damage.file))
            ):
                wrong = trouble(said[0], Path("outputs" if "outputs" in said[0] else "prepared")) or (
                    "refused after training" if re.search(r"^update \d", printed, re.M) else None
                )
            elif code == 0 and damage.file not in ("result.json", "config.yaml"):
                mean = (
                    json.loads((home / folder / "result.json").read_text())["mean"]
                    if program == "train"
                    else None
                )
                if mean not in (None, means[kind]):
                    wrong = f"another score, {mean} and not {means[kind]}"
            if (home / EXECUTED).exists() or {p.name for p in home.iterdir()} - {
                "zoo",
                "prepared",
                "outputs",
            }:
                wrong = "something was executed, or written elsewhere"
            if state(home / "zoo") != before:
                wrong = "raw files have changed"
            if wrong:
                yield f"{wrong}: case {case}, {program} {kind}: {damage.what} {damage.file}: {printed[-600:]}"
            shutil.rmtree(home)


def faults_of_reports(number: int, seed: int) -> Iterator[str]:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        good, home = Path(scratch) / "good", Path(scratch) / "case"
        found = cells("table1", ["shots=5", "method=lstm", f"paths.outputs={good}"])
        for cell in found:
            stored(cell, some(0.04, cell.cfg.seed))
        moved = [replace(cell, folder=home / cell.folder.relative_to(good)) for cell in found]
        for case in range(number):
            shutil.copytree(good, home)
            place = moved[1].folder / dice.choice(
                ("result.json", "result.json", "test_scores.csv", "metrics.csv")
            )
            if place.suffix == ".json" and dice.random() < 0.7:
                place.write_text(json.dumps(mark(dice, json.loads(place.read_text()))))
                what = "marked"
            elif dice.random() < 0.3:
                what = other_kind(dice, place)
            else:
                what, data = of_bytes(dice, place.read_bytes())
                place.write_bytes(data)
            try:
                with limited(), contextlib.redirect_stderr(io.StringIO()):
                    runs = of_study(moved)
                    summarise(runs)
                    learning(runs, logs_of(runs), "validation", "a study")
                    load(home)
                if sum(runs["scores"].notna()) < 2:
                    yield f"good runs are lost: case {case}, report: {what} {place.name}"
            except BaseException as error:
                yield f"{type(error).__name__}: {error}: case {case}, report: {what} {place.name}"
            shutil.rmtree(home)


def faults_of_files(number: int, seed: int) -> Iterator[str]:
    """Of `number` cases three quarters are of runs, one of reports."""
    yield from faults_of_runs(number * 3 // 4, seed)
    yield from faults_of_reports(number // 4, seed)
