"""The code of the documentation runs."""

import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from fewshot.config.checks import check
from fewshot.config.compose import CONF, composed, quote_shots
from fewshot.report.__main__ import split_queries
from fewshot.report.jobs import jobs, params
from fewshot.report.runs import runs_of
from tests.conftest import tables


def test_the_notebook_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_PREPARED", str(tables(tmp_path)))
    blocks = re.findall(r"```python\n(.*?)```", (CONF.parent / "docs" / "notebook.md").read_text(), re.S)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    printed = capfd.readouterr().out
    assert names["score"]["test/accuracy"] > 40  # chance is 20
    assert "normalisation=rows: choose one of example, matrix, joint, none" in printed
    assert names["episode"].support_x.shape == (3, 5, 1, 28, 28)
    assert names["predictions"].shape == (3, 25, 5)
    together = names["single"].predict(names["episode"])
    torch.testing.assert_close(names["logits"], together[:, :1])
    assert (tmp_path / "task.png").stat().st_size > 1000


PAGES = [CONF.parent / "README.md", *sorted((CONF.parent / "docs").rglob("*.md"))]
COMMANDS = [
    line.split("  #")[0].split(" > ")[0].strip()
    for page in PAGES
    for line in page.read_text(encoding="utf-8").splitlines()
    if re.match(r" {4}python (train\.py|-m fewshot\.report\S*) ", line)
]


@pytest.mark.parametrize(
    "command", sorted({c for c in COMMANDS if not re.search(r"hydra/|--help|\.pth|=timm|…|mine", c)})
)
def test_the_commands_of_the_documentation_compose(command: str) -> None:
    """The first cell and the last one, up to the data."""
    [program, *told] = shlex.split(command)[1:]
    if program == "-m":
        assert jobs(told[1], split_queries(told[2:])[0])
        return
    told = quote_shots([o for o in told if "=" in o])
    [combinations] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(told), None)
    for cell in (combinations[0], combinations[-1]):
        check(composed([o.replace("'", "") for o in cell]))


@pytest.mark.parametrize(
    "archive",
    sorted((CONF.parent / "docs" / "results").glob("*/runs.tar.xz")),
    ids=lambda path: path.parent.name,
)
@pytest.mark.usefixtures("composed_once")
def test_stored_runs_are_those_of_their_study(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever unpacks them has cells that are done; a change of a setting or of what names a run would undo that."""
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path))
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    narrowed = {"quick": ["profile=quick"], "text": ["variant=paper"], "tf32": ["trainer.precision=tf32"]}
    named = re.fullmatch(rf"(.*?)(?:-({'|'.join(narrowed)}))?", archive.parent.name)
    assert named is not None
    told, swept = list(narrowed.get(named[2], [])), params(named[1], [])
    for place, name in enumerate(("data", "method")):  # the others take seconds
        there = {result.relative_to(tmp_path).parts[place] for result in tmp_path.rglob("result.json")}
        told += [f"{name}={','.join(sorted(there))}"] * (name in swept)
    runs = runs_of(jobs(named[1], told))
    done = set(runs.loc[runs["scores"].notna(), "folder"])
    assert done == {str(result.parent) for result in tmp_path.rglob("result.json")}
