"""Times and counts every learner on every data set: `python -m benchmarks --cases sine/oplstm,omniglot/*`."""

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import cases
from benchmarks.clock import best_gflops, take_turns, use_threads
from benchmarks.counts import count
from benchmarks.grow import grow
from benchmarks.in_a_run import lightning_times
from benchmarks.tables import show
from fewshot.errors import UserError
from fewshot.results.environment import git_commit, processor
from fewshot.training.update import is_pure

PACKAGES = ("torch", "lightning", "numpy", "jax", "jaxlib", "optax")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--cases", help=f"patterns, as sine/oplstm,omniglot/*: {', '.join(cases.names())}")
    parser.add_argument(
        "--all", action="store_true", help="include slow cases, Conv-4 on 84×84: minutes per case on a CPU"
    )
    parser.add_argument(
        "--seconds", type=float, default=6, help="measured per case, without setup (default 6)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, as train.py takes them"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all results")
    parser.add_argument(
        "--grow",
        action="store_true",
        help="instead: growth of time and memory with meta-batch, shots, ways, …",
    )
    return parser.parse_args(given)


def chosen(patterns: str | None, slow: bool) -> list[str]:
    """The cases that match; without patterns all but the slow ones. UserError: a pattern matches none."""
    names = cases.names()
    if patterns is None:
        return [name for name in names if slow or not name.startswith(cases.SLOW)]
    for pattern in patterns.split(","):
        if not any(fnmatch(name, pattern) for name in names):
            raise UserError(f"--cases {pattern}: no such case; there are {', '.join(names)}")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns.split(","))]


def environment(args: argparse.Namespace) -> dict[str, Any]:
    installed = {name: version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    return {
        "date": datetime.now().isoformat(timespec="seconds"),
        "processor": processor(),
        "device": args.device,
        "threads": args.threads,
        "load": os.getloadavg()[0],  # of other processes
        "settings": args.set,
        "versions": {"python": platform.python_version()} | installed,
        "git_commit": git_commit(),
        "best_gflops": best_gflops(args.device),
    }


def fits(name: str, device: str, settings: Sequence[str]) -> bool:
    """Whether a slow case's step fits into the memory that is free, from the peak of a single task's."""
    if not name.startswith(cases.SLOW) or device != "cpu" or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return True
    meta_batch_size = cases.build(name, device, settings).cfg.method.meta_batch_size
    need = (
        meta_batch_size
        * count(cases.build(name, device, [*settings, "method.meta_batch_size=1"]).train()).peak
    )
    return need < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times and counts of a case."""
    case, quick = (cases.build(name, args.device, args.set) for _ in range(2))
    on_gpu = args.device.startswith("cuda")
    counted = count(case.train())
    steps = {"train": case.train(), "draw": case.draw(), "test": case.test()}
    jax_compile = compile_seconds = None
    if args.jax:
        from benchmarks import rival_jax

        if rival_jax.has_rival(case.learner):
            steps["jax"], jax_compile = rival_jax.rival(case.learner, case.batches("train"))
    if is_pure(case.learner) and case.cfg.trainer.compile:
        steps["compiled"] = quick.train_faster()
        started = time.perf_counter()
        steps["compiled"]()
        compile_seconds = time.perf_counter() - started
    times = take_turns(steps, args.seconds * 3 / 4, on_gpu)
    tasks = case.cfg.method.meta_batch_size
    row: dict[str, Any] = {
        "name": name,
        "meta_batch_size": tasks,
        "eval_batch_size": case.cfg.trainer.eval_batch_size,
        "parameters": sum(p.numel() for p in case.learner.parameters()),
        "ms_per_task": {n: t.summary(row_tasks(n, case)) for n, t in times.items()},
        "compile_seconds": compile_seconds,  # less if torch's cache has the code
        "jax_compile_seconds": jax_compile,
        "of_a_step": counted.totals(),
    }
    within = int(args.seconds / 4 / (1e-3 * tasks * row["ms_per_task"]["train"]["median"]))
    in_a_run = lightning_times(name, args.device, args.set, min(max(within, 5), 2000))
    row["ms_per_task"]["lightning"] = in_a_run.summary(tasks)
    return row | {"config": OmegaConf.to_container(case.cfg, resolve=True)}


def row_tasks(step: str, case: cases.Case) -> int:
    return int(case.cfg.trainer.eval_batch_size if step == "test" else case.cfg.method.meta_batch_size)


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints, and returns what `--json` writes."""
    args, console = arguments(given), Console(stderr=True)
    use_threads(args.threads)
    names = chosen(args.cases, args.all)
    args.jax = args.device == "cpu" and all(importlib.util.find_spec(name) for name in ("jax", "optax"))
    if not args.jax and not args.grow:
        console.print(
            "JAX is left out: it needs pip install '.[bench]' and --device cpu",
            markup=False,
        )
    results: dict[str, Any] = environment(args) | {"cases": []}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("of"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        if args.grow:
            results["growth"] = grow(args, progress)
        else:
            for name in progress.track(names):
                progress.update(progress.task_ids[0], description=name)
                if not fits(name, args.device, args.set):
                    console.print(
                        f"{name} is left out for lack of memory; try --set method.meta_batch_size=1"
                    )
                    continue
                results["cases"].append(measure(name, args))
                if args.json:  # an interrupted session keeps its results
                    args.json.write_text(json.dumps(results, indent=1) + "\n")
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
