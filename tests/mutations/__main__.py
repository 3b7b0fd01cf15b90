"""Breaks the package in one place at a time; a test of it must fail: `python -m tests.mutations [path]`.

Each mutation runs in its own copy of the repository. Paths restrict the files, as `fewshot/methods`.
Exits 1 if a mutation survives, or if a test of the unchanged copy fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations import MUTATIONS, ROOT, Mutation, tests_of

COPIED = ("benchmarks", "fewshot", "tests", "conf", "docs/compare.md", "train.py", "pyproject.toml")
AT_A_TIME = 2


def copy(source: Path, target: Path) -> None:
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


def first_failure(base: Path, mutation: Mutation | None, tests: list[str]) -> str | None:
    """The first test that fails in a copy of `base` with the mutation, None if all pass."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        target = Path(folder).resolve()
        copy(base, target)
        if mutation:
            path = target / mutation.file
            path.write_text(path.read_text().replace(mutation.old, mutation.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
        one_thread = {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=target, env=os.environ | one_thread, capture_output=True, text=True
        )
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return None if done.returncode == 0 else (failed or [done.stdout + done.stderr])[0]


def main(paths: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not paths or m.file.startswith(tuple(paths))]
    every = sorted({test for mutation in chosen for test in tests_of(mutation.file)})
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        base = Path(folder)
        copy(ROOT, base)  # edits of the repository do not change the runs
        unchanged = pool.submit(first_failure, base, None, every)
        outcomes = pool.map(lambda m: first_failure(base, m, tests_of(m.file)), chosen)
        survivors = 0
        for mutation, outcome in zip(chosen, outcomes, strict=True):
            survivors += outcome is None
            print(f"{outcome or 'SURVIVED'}: {mutation}", flush=True)
    print(f"{len(chosen)} mutations, {survivors} survived; unchanged: {unchanged.result() or 'passes'}")
    return 1 if survivors or unchanged.result() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
