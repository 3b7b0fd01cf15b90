"""Mistakes, help and finished runs are told without torch, in the words that are used with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot.config.compose import CONF
from fewshot.light import first
from tests.conftest import tables
from tests.test_package import TINY

ASK = (
    "import sys; from fewshot.cli import *; code = main(run_{0}, '{0}'); print('torch' in sys.modules); sys.exit(code)"
)


def run(program: str, arguments: str, outputs: Path, **environ: str) -> tuple[int, str, str, bool]:
    """Exit code, both streams, and whether torch was imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEWSHOT_")}
    command = [sys.executable, "-c", ASK.format(program), *arguments.split()]
    places = {"FEWSHOT_OUTPUTS": str(outputs), "FEWSHOT_PREPARED": str(tables(outputs.parent)), **environ}
    done = subprocess.run(command, env=kept | places, cwd=CONF.parent, capture_output=True, text=True)
    *printed, imported = done.stdout.splitlines() or ["", "True"]
    return done.returncode, "\n".join(printed), done.stderr, imported == "True"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("method.lr=-1", "method.lr=-1: give a number above 0"),
        ("method=oplstm method.cells=[3,2]", "method.cells=[3, 2]: the last cell has 1 unit"),
        ("method=protonet data=sine", "method=protonet classifies and data=sine is regression"),
        ("backbone=resnet12 data.size=8", "backbone=resnet12 does not fit data=glyphs"),
        ("trainer.nothing=3", "unknown setting 'trainer.nothing'"),
        ("data=mini paths.raw=/nowhere paths.prepared=/nowhere", "miniImageNet: put train.csv"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: str, told: str) -> None:
    code, _, errors, imported = run("train", arguments, tmp_path / "outputs")
    assert (code, imported) == (2, False)
    assert errors.startswith(f"error: {told}")
    assert len(errors.splitlines()) == 1


def test_a_run_that_is_finished_and_what_it_cannot_be_tested_on(tmp_path: Path) -> None:
    outputs, chosen = tmp_path / "outputs", f"method=protonet data=glyphs {TINY}"
    code, printed, errors, imported = run("train", chosen, outputs)
    assert (code, imported) == (0, True), errors
    again = run("train", chosen, outputs)
    assert again == (0, printed, "already finished; force=true runs it anew\n", False)
    [folder] = (outputs / "glyphs" / "protonet" / "1-shot").iterdir()
    code, _, errors, imported = run("train", f"{chosen} seed=1 shots=400", outputs)
    assert "data.train_shots=400 + data.train_queries=15 is more than the" in errors
    assert (code, imported) == (2, False)
    code, _, errors, imported = run("evaluate", f"run={folder} data=sine", outputs)
    assert "the run was trained on glyphs: data=sine has other inputs" in errors
    assert (code, imported) == (2, False)


def test_help(tmp_path: Path) -> None:
    for program in ("train", "evaluate"):
        code, printed, errors, imported = run(program, "--help", tmp_path)
        assert code == 0, errors
        assert "a whole number from" in printed
        assert not imported


def test_where_torch_is_there_nothing_is_looked_at_twice() -> None:
    assert first(lambda: pytest.fail("called")) is None
