"""Files damaged at random: images, lists, archives, pickles, tables, run folders and reports; a part of `make grammar`.

A case copies small good files, damages one of them and asks for what reads it. It must end in the right result, or in
one line that names a file and the mend, before anything is trained; nothing is executed and no other file changes.
"""

import contextlib
import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from PIL import Image

from fewshot.cli import main, run_evaluate, run_train
from fewshot.config.compose import CONF
from fewshot.data import mini
from fewshot.data.images import open_or_prepare
from fewshot.data.table import Table
from fewshot.errors import UserError
from fewshot.mistakes import plain
from fewshot.report.figures import learning, logs_of
from fewshot.report.frame import load
from fewshot.report.runs import cells
from fewshot.report.summary import summarise
from fewshot.report.tested import of_study
from tests.made_files import fill_folder, fill_tar, fill_zip, picture
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


def with_csv() -> dict[str, bytes]:
    rows = [f"{name[6:]},{name[:5]},{SPLIT_OF[int(name[4])]}" for name, _ in names()]
    return folders() | {"list.csv": "\n".join(["filename,label,split", *rows]).encode()}


def with_three_csvs() -> dict[str, bytes]:
    files = folders()
    for split in ("train", "val", "test"):
        rows = [f"{name[6:]},{name[:5]}" for name, _ in names() if SPLIT_OF[int(name[4])] == split]
        files[f"{split}.csv"] = "\r\n".join(["filename,label", *rows]).encode()
    return files


def with_json() -> dict[str, bytes]:
    return folders() | {
        "split.json": json.dumps({f"kind{k}": split for k, split in enumerate(SPLIT_OF)}).encode()
    }


def with_texts() -> dict[str, bytes]:
    lists = {
        s: "\n".join(f"kind{k}" for k, split in enumerate(SPLIT_OF) if split == s)
        for s in ("train", "val", "test")
    }
    return folders() | {f"{split}.txt": text.encode() for split, text in lists.items()}


def pickles() -> dict[str, bytes]:
    files = {}
    for split in ("train", "val", "test"):
        of_split = [(name[:5], v) for name, v in names() if SPLIT_OF[int(name[4])] == split]
        pixels = np.tile(
            np.array([v for _, v in of_split], dtype=np.uint8)[:, None, None, None], (1, 8, 8, 3)
        )
        where: dict[str, list[int]] = {}
        for row, (kind, _) in enumerate(of_split):
            where.setdefault(kind, []).append(row)
        files[f"mini-imagenet-cache-{split}.pkl"] = pickle.dumps(
            {"image_data": pixels, "class_dict": where}, 2
        )
    return files


DATA: list[Callable[[], dict[str, bytes]]] = [
    *(folders, split_folders, with_csv, with_three_csvs, with_json, with_texts, pickles)
]
HOLDS: dict[str, Callable[[Path, dict[str, bytes]], None]] = {
    "folder": fill_folder,
    "zip": lambda place, files: fill_zip(place / "a.zip", files),
    "tar": lambda place, files: fill_tar(place / "a.tar", files, "w"),
    "tgz": lambda place, files: fill_tar(place / "a.tgz", files),
}


# ---------------------------------------------------------------- damage
@dataclass
class Damage:
    """What was done, to which file; `refused` says whether it must be, None where both ends can be right."""

    what: str
    file: str
    refused: bool | None = None
    pixels: bool = False  # whether an image may have become another one in silence: it has no checksum


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


def odd_picture(dice: random.Random, grey: int) -> tuple[str, bytes, bool]:
    """An image of one grey in an odd form, and whether it is to be refused; otherwise it must be read as that grey."""
    grey_ = Image.fromarray(np.full((8, 8), grey, dtype=np.uint8))
    other, rgb = Image.new("RGB", (8, 8), (1, 2, 3)), grey_.convert("RGB")
    what, out = (
        dice.choice(
            (
                "wide",
                "wide tiff",
                "float",
                "lab",
                "huge",
                "GIF",
                "WEBP",
                "PNG",
                "TIFF",
                "clear",
                "cmyk",
                "exif",
            )
        ),
        io.BytesIO(),
    )
    if what in ("wide", "wide tiff"):
        Image.fromarray(np.full((8, 8), 257 * grey, dtype=np.uint16)).save(
            out, "PNG" if what == "wide" else "TIFF"
        )
    elif what == "float":
        Image.fromarray(np.full((8, 8), grey, dtype=np.float32)).save(out, "TIFF")
    elif what == "lab":
        Image.new("LAB", (8, 8)).save(out, "TIFF")
    elif what == "huge":
        data = bytearray(picture(grey))
        data[16:24] = b"\x00\x01\x00\x00" * 2
        return what, bytes(data), True
    elif what in ("GIF", "WEBP", "PNG", "TIFF"):  # the first of several
        own = {"lossless": True} if what == "WEBP" else {}
        rgb.save(out, what, save_all=True, append_images=[other], **own)
    elif what == "clear":  # grey where anything is seen at all, on white
        grey_.putalpha(Image.fromarray(np.full((8, 8), 255, dtype=np.uint8)))
        grey_.save(out, "PNG")
    elif what == "cmyk":
        rgb.convert("CMYK").save(out, "TIFF")
    else:
        exif = Image.Exif()
        exif[0x0112] = dice.randrange(10)
        rgb.save(out, "PNG", exif=exif)
    return what, out.getvalue(), what in ("wide", "wide tiff", "float", "huge")


def of_list(dice: random.Random, text: str) -> tuple[str, str, bool | None]:
    """A csv or a text of lines that lies, and whether it is to be refused."""
    lines = text.splitlines()
    at = dice.randrange(1, len(lines)) if len(lines) > 1 else 0
    cells_ = lines[at].split(",")
    what = dice.choice(
        ("marked", "empty", "missing", "short", "header", "moved", "twice", "semicolons", "blank lines")
    )
    if what == "marked":
        return what, "\ufeff" + "\r\n".join(lines) + "\r\n", False
    if what == "blank lines":
        return what, "\n\n".join(lines) + "\n\n", False
    if what == "twice":
        return what, "\n".join([*lines, lines[at]]), False
    if what == "empty" and len(cells_) > 1:
        cells_[dice.randrange(len(cells_))] = " "
    elif what == "missing" or len(cells_) == 1:
        what, cells_[0] = "missing", "nowhere.png"
    elif what == "short":
        cells_ = cells_[:-1]
    elif what == "header":
        at, cells_ = 0, ["a", "b", "c"][: len(cells_)]
    elif what == "moved":  # into a class that another split has
        cells_[1] = "kind0" if cells_[1] != "kind0" else "kind6"
    else:
        return what, text.replace(",", ";"), None
    lines[at] = ",".join(cells_)
    return what, "\n".join(lines), None if what in ("moved", "header") else True


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


def archive_of(dice: random.Random, place: Path, files: dict[str, bytes]) -> Damage:
    """A zip with members that lead out of it, that are links, or that lie about their size."""
    kind = dice.choice(("names", "links", "twice", "size", "encrypted", "method", "comment"))
    fill_zip(place, files)
    if kind in ("names", "links", "twice"):
        with zipfile.ZipFile(place, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there already
            for name in ("../out.png", "/tmp/out.png", "a\\..\\out.png", "..", "kind0/\x1b[31m\n.txt"):
                entry = zipfile.ZipInfo(name if kind == "names" else f"kind0/{abs(hash(name))}.png")
                if kind == "links":
                    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry if kind != "twice" else next(iter(files)), "/etc/passwd")
        return Damage(kind, place.name, False)
    data = bytearray(place.read_bytes())
    at = dice.choice([m.start() for m in re.finditer(b"PK\x01\x02", data)])  # an entry of its directory
    if kind == "size":
        data[at + 24 : at + 28] = dice.choice(
            (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0")
        )
    elif kind == "encrypted":
        data[at + 8] |= 1
    elif kind == "method":
        data[at + 10] = dice.choice((1, 9, 12, 14, 97))
    else:
        data += dice.randbytes(40)
    place.write_bytes(data)
    return Damage(kind, place.name)


def damage_data(dice: random.Random, place: Path, files: dict[str, bytes], hold: str) -> Damage:
    """Fills `place` with the files, one of them damaged, or with a damaged archive of them."""
    name = dice.choice(list(files))
    if any(not n.endswith((".png", ".pkl")) for n in files) and dice.random() < 0.5:
        name = dice.choice([n for n in files if not n.endswith(".png")])
    done = None
    if dice.random() < 0.3 and hold != "folder":
        if hold == "zip" and dice.random() < 0.6:
            return archive_of(dice, place / "a.zip", files)
        HOLDS[hold](place, files)
        [archive] = place.iterdir()
        if dice.random() < 0.2:
            return Damage(other_kind(dice, archive), archive.name)
        what, data = of_bytes(dice, archive.read_bytes())
        archive.write_bytes(data)
        return Damage(f"archive {what}", archive.name, pixels=True)
    if name.endswith(".png") and dice.random() < 0.5:
        what, data, refused = odd_picture(dice, value(int(name[-6]), int(name[-5])))
        done = Damage(f"picture {what}", name, None if what == "lab" else refused, pixels=what == "lab")
    elif name.endswith((".csv", ".txt")) and dice.random() < 0.7:
        what, text, refused = of_list(dice, files[name].decode())
        data, done = text.encode(), Damage(f"list {what}", name, refused, pixels=what == "moved")
    elif name.endswith(".json") and dice.random() < 0.7:
        data, done = json.dumps(mark(dice, json.loads(files[name]))).encode(), Damage("marked", name)
    elif name.endswith(".pkl") and dice.random() < 0.6:
        held = pickle.loads(files[name])
        if dice.random() < 0.5:
            data, done = (
                pickle.dumps(mark(dice, held) if dice.random() < 0.5 else Malice()),
                Damage("marked", name),
            )
        else:
            held["image_data"] = held["image_data"].astype(
                dice.choice([np.int8, np.float32, object, "M8[s]"])
            )
            data, done = pickle.dumps(held), Damage("of another type", name, True)
    elif hold == "folder" and dice.random() < 0.3:
        fill_folder(place, files)
        return Damage(other_kind(dice, place / name), name)
    else:
        what, data = of_bytes(dice, files[name])
        done = Damage(what, name, pixels=True)
    HOLDS[hold](place, files | {name: data})
    return done


# ---------------------------------------------------------------- what must come out
def trouble(error: str, place: Path) -> str | None:
    """What is wrong with a line that refuses."""
    if str(place) not in error:
        return "names no file"
    return None if re.search(rf"\b({MENDS.replace(' ', '|')})\b", error) else "no mend"


def wrong_pixels(table: Table, damage: Damage) -> str | None:
    """What of a table is not as the files have it."""
    strange = 0
    for classes in table.splits.values():
        for name, start, count in zip(classes.names, classes.starts, classes.counts, strict=True):
            kind = re.search(r"kind(\d)", name)
            right = {value(int(kind[1]), number) for number in range(3)} if kind else set()
            for image in table.images[start : start + count]:
                strange += len(set(image.ravel().tolist()) - {v + d for v in right for d in (-1, 0, 1)}) > 0
    several = damage.what.startswith("archive") or damage.file.endswith(".pkl")  # of one file
    if strange > damage.pixels and not (damage.pixels and several):
        return f"{strange} images are others"
    return None


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


def faults_of_data(number: int, seed: int) -> Iterator[str]:
    dice = random.Random(seed)
    for case in range(number):
        make, hold = dice.choice(DATA), dice.choice(list(HOLDS))
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
            home = Path(scratch).resolve()
            place = home / "raw" / "mini"
            place.mkdir(parents=True)
            damage = damage_data(dice, place, make(), hold)
            before, printed = state(home), io.StringIO()
            name = "mini" if make is pickles else "folder"
            wrong, line = None, ""
            counts = {split: SPLIT_OF.count(split) for split in ("train", "val", "test")}
            try:
                with limited(), patch.object(mini, "CLASSES", counts), contextlib.redirect_stderr(printed):
                    table = open_or_prepare(
                        name, home / "raw", home / "prepared", 8, 3, place, download=False
                    )
                wrong = "taken" if damage.refused else wrong_pixels(table, damage)
            except UserError as error:
                line = plain(str(error))
                wrong = "refused" if damage.refused is False else trouble(line, home)
            except BaseException as error:
                wrong = f"{type(error).__name__}: {error}"
            shutil.rmtree(home / "prepared", ignore_errors=True)
            if state(home) != before:
                wrong = "other files have changed"
            if any(
                re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", told)
                for told in printed.getvalue().splitlines()[:1]
            ):
                wrong = "steers a terminal"
            if wrong:
                yield f"{wrong}: case {case}, {make.__name__} in {hold}: {damage.what} {damage.file}: {line[:300]}"


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
    if (home / "prepared").exists():
        tables = [path.relative_to(home) for path in (home / "prepared").glob("*/*")]
        places = dice.choice([places, [*tables, folder / "split.json"]])
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
        if place.suffix == ".npy":
            other = np.load(place)
            kinds = [
                other[:, :4],
                other[1:],
                other.astype(np.int8),
                other.astype(float),
                np.asfortranarray(other),
            ]
            np.save(
                place,
                dice.choice([*kinds, other[..., 0], np.array([Malice()], dtype=object)]),
                allow_pickle=True,
            )
            return Damage("another array", place.name)
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
    """Of `number` cases six tenths are of data, three of runs, one of reports."""
    yield from faults_of_data(number * 6 // 10, seed)
    yield from faults_of_runs(number * 3 // 10, seed)
    yield from faults_of_reports(number // 10, seed)
