"""Random command lines, constructor calls and files: `make grammar`; a few of them are tests (`test_grammar.py`).

A line or a call with a value that makes no sense must end in one line that says so; a single value that makes sense
must be taken. What makes sense is written here once more, by hand, so that a declaration that is too wide is noticed.
"""

import argparse
import contextlib
import io
import math
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fewshot.backbones.blocks import Blocks
from fewshot.cli import main
from fewshot.config.checks import check, check_evaluation
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.image_source import ImageSource
from fewshot.data.sine import SineSource
from fewshot.data.table import Classes, Table
from fewshot.episodes import SPLITS, Task
from fewshot.errors import UserError
from fewshot.methods import learner_class
from fewshot.mistakes import explain, plain
from fewshot.report.runs import cells
from fewshot.report.sweep import sweep
from fewshot.training.build import make_learner
from tests.conftest import FC, LSTM, MAML, OPLSTM, RELEASED, SAP, WARPMAML

Sense = Callable[[Any], bool]


def count(least: int = 1, most: int = 10**6) -> Sense:
    return lambda v: type(v) is int and least <= v <= most


def positive(v: Any) -> bool:
    return type(v) in (int, float) and 0 < v < math.inf


def flag(v: Any) -> bool:
    return type(v) is bool


def text(v: Any) -> bool:
    return type(v) is str and v != "" and v.isprintable()


def among(*choices: Any) -> Sense:
    return lambda v: any(type(v) is type(choice) and v == choice for choice in choices)


def units(v: Any) -> bool:
    return type(v) in (list, tuple) and len(v) > 0 and all(type(n) is int and 0 < n <= 10**5 for n in v)


def optional(sense: Sense) -> Sense:
    return lambda v: v is None or sense(v)


INNER = dict.fromkeys(("inner_steps", "eval_inner_steps"), count()) | {
    "inner_lr": positive,
    "grad_clip": optional(positive),
}
INNER["first_order"] = flag
METHODS: dict[str, dict[str, Sense]] = {
    "protonet": {},
    "lstm": {
        "support_mode": among("set", "sequence"),
        "inputs": among(
            "target", "prev_target", "prev_target_pred", "prev_target_err", "prev_target_pred_err"
        ),
        "hidden": units,
        "passes": count(),
        "pool_cell": flag,
        "query_cell": flag,
        "first_labels": flag,
    },
    "oplstm": {
        "passes": count(),
        "lstm_units": units,
        "normalisation": among("example", "matrix", "joint", "none"),
        "gamma": optional(positive),
        "pool_state": flag,
        "softmax": flag,
        "preactivation": flag,
        "detach": flag,
        "scalar_bias": flag,
    },
    "maml": INNER | {"grad_clip_each": flag, "adapt_head_only": flag},
    "warpmaml": INNER | {"last_loss": flag},
    "sap": INNER | {"centred": flag},
}
BACKBONE = {
    "layer": among("linear", "conv"),
    "widths": units,
    "bn": among("none", "transductive", "support"),
    "zero_bias": flag,
}
TASKS = {
    "meta_batch_size": count(),
    "max_steps": count(),
    "train_shots": optional(count()),
    "train_queries": count(),
    "val_queries": count(),
    "test_queries": count(),
    "num_val_tasks": count(),
    "num_test_tasks": count(),
    "eval_batch_size": count(),
}
SEED = count(0, 2**32 - 1)
DEVICE = among("auto", "cpu", "gpu", "cuda", "mps")
TRAINER = {
    name: TASKS[name] for name in ("max_steps", "num_val_tasks", "num_test_tasks", "eval_batch_size")
} | {
    "micro_batch_size": optional(count()),
    "compile": lambda v: v == "auto" or flag(v),
    "val_check_interval": count(),
    "save_every_n_steps": count(),
    "log_every_n_steps": count(),
    "precision": among("32-true", "bf16-mixed", "16-mixed"),
    "accelerator": DEVICE,
    "num_threads": count(0, 1000),
    "max_time": lambda v: (
        type(v) is str and len(v) == 11 and v.replace(":", "").isdigit() and v > "00:00:00:00"
    ),
    "enable_progress_bar": flag,
    "similarity": among("none", "text", "released"),
}
PATHS = dict.fromkeys(("raw", "prepared"), text)
EVALUATION: dict[str, Sense] = {
    "run": text,
    "data": optional(text),
    "path": optional(text),
    "shots": optional(count()),
    "queries": optional(count()),
    "ways": optional(count(2)),
    "tasks": optional(count()),
    "bn": optional(among("support")),
    "eval_batch_size": optional(count()),
    "accelerator": DEVICE,
    "num_threads": count(0, 1000),
    "enable_progress_bar": flag,
    "pictures": flag,
    "predictions": flag,
}


def keys(method: str, data: str) -> dict[str, Sense]:
    """The settings of a run, by their dotted names, and what makes sense for each."""
    of_data = {name: TASKS[name] for name in ("train_shots", "train_queries", "val_queries", "test_queries")}
    if data == "sine":
        of_data |= {"sign": among(1, -1), "sign_of.released": among(1, -1)}
    else:
        names = ("omniglot", "mini", "cub", "cub50")
        of_data |= {
            "size": count(),
            "channels": among(1, 3),
            "ways": count(2),
            "test_queries_of.text": count(),
        }
        of_data["train_ways"] = optional(count(2)) if method == "protonet" else lambda v: v is None
        of_data["test"] = lambda v: type(v) is list and all(n in names and v.count(n) == 1 for n in v)
    groups = {
        "method": METHODS[method] | {"lr": positive, "meta_batch_size": count(), "name": among(method)},
        "data": of_data | {"name": among(data)},
        "backbone": BACKBONE,
        "trainer": TRAINER,
        "logger": {"name": among("csv")},
        "paths": PATHS,
    }
    dotted = {f"{group}.{name}": sense for group, names in groups.items() for name, sense in names.items()}
    return dotted | {
        "seed": SEED,
        "overwrite": flag,
        "predictions": flag,
        "variant": among("released", "paper"),
    }


ODD_WORDS = """
null true false nan inf -inf -1 0 -0 1 2 3 1.0 1.5 0.1 1e-3 1e400 1_000 0x10 007 1e3 99999999999999999999
-99999999999999999999 '' foo ../../x [] [1] [1,2] [0] [-1] [1.5] [null] [true] [foo] [[1]] [5,5,1] [[[1]]] {} {a:1}
{a:{b:1}} [1,[2]] set sequence conv linear none text released matrix support target csv oplstm method [mini] [mini,mini]
[glyphs] [sine] 00:01:00:00 0:00:00:00 00:00:00:00 99999999999:00:00:00 2h 32-true 64-true cpu abacus ??? ${nowhere}
${oc.env:NOWHERE} é /etc/passwd '1' 'true' 1j 1/2 2**3 a:b a@b *
"""
ODD = [*re.findall(r"\S+", ODD_WORDS), "' '", "'a\\tb'"]
UNKNOWN_NAMES = """
foo trainer.devices trainer.val_evry data.foo method.foo backbone.foo logger.foo a.b.c paths.foo method.lr.x seed.x
trainer paths data.test.x optimizer hydra_ defaults
"""
UNKNOWN = re.findall(r"\S+", UNKNOWN_NAMES)
CHOICES = ["0", "-1", "1.5", "1,2", "foo", "[1]", "{a:1}", "../../x", "''", "99999999999999999999", "a b"]


def value_of(override: str) -> Any:
    """What Hydra makes of a line's value; raises as it does."""
    [parsed] = OverridesParser.create().parse_overrides([override])
    return parsed.value() if not parsed.is_sweep_override() else object()


def line(dice: random.Random) -> tuple[str, list[str], bool | None]:
    """A program, its command line, and whether it makes sense; None where only two settings together decide."""
    if dice.random() < 0.15:
        program, context, known = (
            "evaluate",
            ["run=nowhere"],
            EVALUATION | {f"paths.{n}": s for n, s in PATHS.items()},
        )
    else:
        method = dice.choice(list(METHODS))
        data = dice.choice(
            ["glyphs", "omniglot", "mini", "sine"] if method in ("lstm", "maml", "oplstm") else ["mini"]
        )
        program, context = "train", [f"method={method}", f"data={data}", "logger=csv"]
        known = keys(method, data)
    overrides, sensible = [], True
    if dice.random() < 0.15:
        groups = ("shots", "method", "data", "backbone", "logger", "experiment", "settings")
        group = dice.choice(groups if program == "train" else groups[:1])
        return program, [*context, f"{dice.choice(('', '', '+'))}{group}={dice.choice(CHOICES)}"], False
    for name in dice.sample([*known], dice.choice((1, 1, 1, 2, 3))):
        if dice.random() < 0.15:
            overrides.append(f"{dice.choice(('', '+', '++', '~'))}{dice.choice(UNKNOWN)}={dice.choice(ODD)}")
            sensible = False
            continue
        value = dice.choice(ODD)
        sign = dice.choice(("", "", "", "", "++", "+", "~"))
        if known[name](None) and (sign == "+" or name == "shots"):  # null is as good as nothing
            sign = ""
        override = f"{sign}{name}" if sign == "~" else f"{sign}{name}={value}"
        overrides.append(override)
        try:
            sensible = (
                sensible
                and sign in ("", "++")
                and "${" not in value
                and value != "???"
                and known[name](value_of(override))
            )
        except Exception:
            sensible = False
    alone = len(overrides) == 1 and not overrides[0].startswith(
        ("method.", "backbone.", "trainer.similarity", "++")
    )
    too_much = any(
        o.startswith(("trainer.val_check_interval", "trainer.max_steps", "data.size")) for o in overrides
    )
    return program, [*context, *overrides], sensible if not sensible or (alone and not too_much) else None


def run_line(program: str, arguments: list[str]) -> tuple[int | str, str]:
    """The exit code, or the exception that came through, and what was printed."""

    def run(cfg: DictConfig) -> dict[str, Any]:
        if program == "evaluate":
            check_evaluation(cfg)
        else:
            check(cfg)
            shape = (1,) if cfg.data.name == "sine" else (cfg.data.channels, cfg.data.size, cfg.data.size)
            with torch.device("meta"):  # makes nothing, however large
                make_learner(
                    cfg, Task(shape, 1 if cfg.data.name == "sine" else cfg.data.ways, cfg.data.name == "sine")
                )
        return {"status": "finished"}

    before, printed = sys.argv, io.StringIO()
    sys.argv = [f"{program}.py", *arguments]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            return main(run, program), printed.getvalue()
    except BaseException as error:
        return f"{type(error).__name__}: {error}", printed.getvalue()
    finally:
        sys.argv = before


def faults_of_lines(number: int, seed: int) -> Iterator[str]:
    dice = random.Random(seed)
    for _ in range(number):
        program, arguments, sensible = line(dice)
        code, printed = run_line(program, arguments)
        said = [row for row in printed.splitlines() if row.strip()]
        wrong = None
        if code not in (0, 2) or "Traceback" in printed:
            wrong = "a traceback"
        elif code == 2 and len(said) != 1:
            wrong = f"{len(said)} lines"
        elif sensible is False and code == 0:
            wrong = "taken"
        elif sensible is True and code == 2:
            wrong = "refused"
        if wrong:
            yield f"{wrong}: {program}.py {' '.join(map(repr, arguments))}: {code} {printed[-300:]}"


STUDIES = [
    *("table1", "tableA1", "lstm_sine", "oplstm_mini", "demo", "table9", "", "a=b", "../table1", "--help")
]
SETTING_WORDS = """
seed=3 ++seed=3 ++seed=3,4 +seed=3 ~seed seed=a seed=null seed=1,, seed=range(3,3) seed=glob(*) seed=interval(0,1) x -m
shots=5 ++shots=5 +shots=5 shots=0 shots=glob(*) method=lstm method=glob(l*) method=5 method=5,6 method= method=[lstm
~method trial=0 ++trial=3 trial=x profile=quick profile=slow foo=1 ++foo=1 hydra.sweeper.params=null experiment=table2
+search=lstm_sine paths.outputs= method.passes=0 ++method.passes=2 variant=paper variant=x trainer.max_steps=-1 =5 a=b=c
"""
SETTINGS = re.findall(r"\S+", SETTING_WORDS)


def faults_of_studies(number: int, seed: int) -> Iterator[str]:
    """What the report and the dashboard are told of a study, and the sweep its name."""
    dice = random.Random(seed)
    for _ in range(number):
        study = dice.choice(STUDIES[:4] if dice.random() < 0.7 else STUDIES)
        told = ["method=lstm", *dice.sample([*SETTINGS, ""], dice.choice((0, 1, 1, 2)))]
        told = [*told, "shots=5"] if study.startswith("table") else told[1:] or ["trial=0"]
        for ask in (lambda study=study, told=told: cells(study, told), lambda study=study: sweep(study)):
            try:
                found = ask()
                wrong = None if found else "nothing"
            except (UserError, HydraException, OmegaConfBaseException) as error:
                wrong = None if plain(explain(error)) else "no words"
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                yield f"{wrong}: report {study} {told}"


VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        math.nan,
        math.inf,
        -1,
        0,
        1,
        2,
        3,
        1.0,
        1.5,
        0.1,
        -0.1,
        10**20,
        1j,
        "",
        "foo",
        "a\nb",
        "1",
    ),
    *(
        "true",
        "set",
        "sequence",
        "conv",
        "linear",
        "none",
        "matrix",
        "support",
        "target",
        "prev_target",
        [1],
        [1, 2],
    ),
    *(
        (2, 1),
        [],
        (),
        [0],
        [True],
        ["a"],
        [None],
        [[1]],
        [1.0],
        [10**20],
        {},
        {"a": 1},
        {1},
        b"x",
        object(),
        float,
        ...,
    ),
    *(np.int64(2), np.arange(2), torch.ones(1), lambda: 1, range(3)),
]


def callables() -> list[tuple[Callable[..., Any], dict[str, Any], dict[str, Sense]]]:
    """Constructors, arguments that they take, and what makes sense for each."""
    classes = Classes(("a", "b", "c"), np.arange(3) * 30, np.full(3, 30))
    table = Table(np.zeros((90, 4, 4, 1), dtype=np.uint8), dict.fromkeys(SPLITS, classes), "")
    task = {"task": Task((1, 3, 3), 3, False), "backbone": FC}
    own = {
        "protonet": {"lr": 1e-3},
        "lstm": LSTM | {"support_mode": "set", "pool_cell": True, "query_cell": True},
        "oplstm": OPLSTM | RELEASED | {"normalisation": "none"},
        "maml": MAML,
        "warpmaml": WARPMAML,
        "sap": SAP,
    }
    learners = [(learner_class(m), task | own[m], METHODS[m] | {"lr": positive}) for m in METHODS]
    datamodule = {"source": SineSource(0, 1), "shots": 2, "meta_batch_size": 2, "max_steps": 3}
    return [
        *learners,
        (Blocks, {"input_shape": (1, 8, 8), "layer": "linear", "widths": [3, 2]}, BACKBONE),
        (SineSource, {"seed": 0, "sign": 1}, {"seed": SEED, "sign": among(1, -1)}),
        (
            ImageSource,
            {"seed": 0, "table": table, "ways": 3},
            {"seed": SEED, "ways": count(2), "train_ways": optional(count(2))},
        ),
        (EpisodicDataModule, datamodule, TASKS | {"shots": count()}),
    ]


def faults_of_calls(number: int, seed: int) -> Iterator[str]:
    dice, constructors = random.Random(seed), callables()
    for _ in range(number):
        make, arguments, sense = dice.choice(constructors)
        changes = {dice.choice(list(sense)): dice.choice(VALUES) for _ in range(dice.choice((1, 1, 2)))}
        if learner_options := isinstance(arguments.get("backbone"), dict) and dice.random() < 0.2:
            name = dice.choice(list(BACKBONE))
            changes = {"backbone": FC | {name: (value := dice.choice(VALUES))}}
        sensible = BACKBONE[name](value) if learner_options else all(sense[k](v) for k, v in changes.items())
        try:
            make(**arguments | changes)
            outcome = "taken"
        except UserError as error:
            outcome = "refused" if len(str(error).splitlines()) == 1 else f"more than a line: {error}"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        if (
            outcome not in ("taken", "refused")
            or (outcome == "taken" and not sensible)
            or (outcome == "refused" and sensible and len(changes) == 1 and not together(changes))
        ):
            yield f"{outcome}: {make.__name__}({changes})"


def together(changes: dict[str, Any]) -> bool:
    """Whether a value that makes sense does not beside the other arguments: on a linear net, or of a set."""
    return bool(
        {"inputs", "lstm_units", "preactivation", "backbone", "layer", "pool_cell", "query_cell"} & {*changes}
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    from tests.hostile import faults_of_files

    os.chdir(tempfile.mkdtemp())
    faults = 0
    calls, lines = faults_of_calls(told.calls, told.seed), faults_of_lines(told.lines, told.seed)
    studies = faults_of_studies(told.lines // 10, told.seed)
    for fault in chain(calls, lines, studies, faults_of_files(told.files, told.seed)):
        faults += 1
        print(fault, flush=True)
    done = f"{told.lines} command lines, {told.calls} calls and {told.files} files"
    print(f"{done}, {faults} faults; nothing made in {Path.cwd()}")
    sys.exit(faults > 0)
