"""The code, commands and links of the documentation work, and its stored runs count as finished."""

import re
import shlex
import shutil
from typing import Any

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from fewshot.config.checks import check
from fewshot.config.compose import CONF, composed
from fewshot.report.__main__ import split_queries
from fewshot.report.jobs import jobs as jobs_of
from fewshot.report.runs import runs_of
from tests.conftest import tables

DOCS = CONF.parent / "docs"
PAGES = {path: path.read_text() for path in (CONF.parent / "README.md", *DOCS.glob("**/*.md"))}
COMMAND = r"(?m)^ {4}python (train\.py|-m fewshot\.report\S*) (.*?)(?: {2,}#.*| > .*)?$"
COMMANDS = sorted(set(re.findall(COMMAND, "\n".join(PAGES.values()))))
UNAVAILABLE = r"hydra/|--help|\.pth|=timm|…|mine|metasgd"  # plugins, files and classes that are not here
OVERRIDES = {"quick": "profile=quick", "text": "variant=paper", "tf32": "trainer.precision=tf32"}


def test_the_notebook_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_PREPARED", str(tables(tmp_path)))
    blocks = re.findall(r"```python\n(.*?)```", PAGES[DOCS / "notebook.md"], re.S)
    exec("".join(blocks), names := dict[str, Any]())
    assert names["score"]["test/accuracy"] > 40  # chance is 20
    torch.testing.assert_close(names["logits"], names["single"].predict(names["episode"])[:, :1])
    assert (tmp_path / "task.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("program", "line"),
    [
        pytest.param(program, line, marks=[pytest.mark.slow] * program.startswith("-m"))
        for program, line in COMMANDS
        if not re.search(UNAVAILABLE, line)
    ],
)
def test_the_commands_of_the_documentation_compose(program, line):
    args = shlex.split(line)
    if program != "train.py":
        assert jobs_of(args[0], split_queries(args[1:])[0])
        return
    overrides = OverridesParser.create().parse_overrides([a for a in args if "=" in a])
    [jobs] = BasicSweeper.split_arguments(overrides, None)
    for job in (jobs[0], jobs[-1]):  # up to the data
        check(composed(list(job)))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    for place, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", PAGES[page]):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), place
        titles = re.sub(r"[^\w\n# -]", "", PAGES.get(target, "")).lower().replace(" ", "-")
        assert not heading or f"#-{heading}\n" in titles, heading


@pytest.mark.parametrize("archive", [*DOCS.glob("**/runs.tar.xz")], ids=lambda path: path.parent.name)
@pytest.mark.usefixtures("composed_once")
@pytest.mark.slow
def test_unpacked_runs_count_as_finished(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path))
    shutil.unpack_archive(archive, tmp_path, filter="data")
    study, _, suffix = archive.parent.name.partition("-")
    runs = runs_of(jobs_of(study, [OVERRIDES[suffix]] if suffix else []))
    finished = runs.loc[runs["scores"].notna(), "folder"]
    assert set(finished) == {str(result.parent) for result in tmp_path.rglob("result.json")}
