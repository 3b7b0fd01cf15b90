"""The documentation's code, commands, links and runs, and what an installed package brings."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import torch

from fewshot import Task, methods
from fewshot.config.compose import CONF, composed, swept
from fewshot.config.settings import check
from fewshot.report.jobs import jobs as jobs_of
from fewshot.report.jobs import runs_of
from tests.conftest import FC, OPLSTM, RELEASED, episode
from tests.helpers import tables
from tests.mutations import MUTATIONS

DOCS = CONF.parent / "docs"
PAGES = {path: path.read_text() for path in (CONF.parent / "README.md", *DOCS.glob("**/*.md"))}
COMMAND = r"(?m)^ {4}python (train\.py|-m fewshot\.report\S*) (.*?)(?: {2,}#.*| > .*)?$"
COMMANDS = sorted(set(re.findall(COMMAND, "\n".join(PAGES.values()))))
# plugins, files and classes that are not here
UNAVAILABLE = r"arena data=arrays|hydra/|--help|\.pth|=timm|…|mine|matching"
OVERRIDES = {"quick": "profile=quick", "text": "variant=paper", "tf32": "trainer.precision=tf32"}
OVERRIDES |= {"seeds": "method=oplstm shots=1 seed=range(1,13)", "compiled": ""}


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
        assert jobs_of(args[0], args[1:])
        return
    values_of = swept({}, [a for a in args if "=" in a]).values()
    for place in (0, -1):  # the first job and the last, up to the data
        check(composed([values[place] for values in values_of]))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    for place, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", PAGES[page]):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), place
        titles = re.sub(r"[^\w\n# -]", "", PAGES.get(target, "")).lower().replace(" ", "-")
        assert not heading or f"#-{heading}\n" in titles, heading


# those of the arena need weights and arrays that are not here
@pytest.mark.parametrize("archive", [*DOCS.glob("results/*/runs.tar.xz")], ids=lambda path: path.parent.name)
@pytest.mark.slow
def test_unpacked_runs_count_as_finished(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path))
    shutil.unpack_archive(archive, tmp_path, filter="data")
    study, _, suffix = archive.parent.name.partition("-")
    runs = runs_of(jobs_of(study, OVERRIDES[suffix].split() if suffix else []))
    finished = runs.loc[runs["scores"].notna(), "folder"]
    assert set(finished) == {str(result.parent) for result in tmp_path.rglob("seed*/result.json")}


@pytest.mark.parametrize(("name", "factor"), [("StillHidden", 0), ("FlippedHidden", -1)])
def test_an_intervention_changes_the_first_hidden_update_alone(name, factor):
    changed = runpy.run_path(str(DOCS / "results" / "table2-seeds" / "interventions.py"))[name]
    options = OPLSTM | RELEASED | {"normalisation": "none", "gamma": None, "preactivation": True}
    updates = []
    for cls in (methods.OPLSTM, changed):
        torch.manual_seed(0)
        learner = cls(Task((1, 3, 3), 3, False), FC, **options)
        batch = episode(learner.double())
        before, targets = learner.initial_weights(), learner.targets(batch.support_y)
        after, _ = learner.one_pass(before, [None] * len(before), batch.support_x.flatten(2), targets)
        updates.append([b.materialize(3) - a.materialize(3) for a, b in zip(before, after, strict=True)])
    (*_, hidden, output), (*_, changed_hidden, same_output) = updates
    torch.testing.assert_close(changed_hidden, factor * hidden)
    torch.testing.assert_close(same_output, output)


ROOT = CONF.parent
TINY = "trainer.max_steps=4 trainer.val_check_interval=2 trainer.num_val_tasks=4 trainer.num_test_tasks=4 "
TINY += "trainer.enable_progress_bar=false logger=csv"


def run(program, arguments, cwd, **environ):
    command = [sys.executable, str(ROOT / f"{program}.py"), *arguments.split()]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEWSHOT_")}
    kept |= {"FEWSHOT_PREPARED": str(tables(cwd))}
    paths = os.pathsep.join([str(ROOT), environ.pop("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=cwd, env=kept | environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )


def test_every_folder_of_the_package_is_in_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for path in (ROOT / "fewshot").rglob("__init__.py")
    }
    assert set(project["packages"]) == found | {"fewshot.conf"}


@pytest.mark.slow
def test_the_pages_method_and_backbone_run(tmp_path):
    text = (ROOT / "docs" / "add-a-method.md").read_text()
    codes, yamls = (re.findall(rf"```{kind}\n(.*?)```", text, re.S) for kind in ("python", "yaml"))
    code = {name: next(c for c in codes if f"class {name}(" in c) for name in ("MatchingNet", "Mine")}
    settings = {name: next(y for y in yamls if f".{name}\n" in y) for name in code}
    own_classes = ("method", "matching", "matching", "MatchingNet"), ("backbone", "mine", "mypackage", "Mine")
    for group, file, module, name in own_classes:
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{file}.yaml").write_text(settings[name])
        (tmp_path / f"{module}.py").write_text(code[name])
    own = {"FEWSHOT_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path)}
    done = run("train", f"method=matching backbone=mine {TINY}", tmp_path, **own)
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "outputs" / "glyphs" / "matching" / "1-shot").iterdir()
    assert run("evaluate", f"run={folder} enable_progress_bar=false", tmp_path, **own).returncode == 0
    wrong = run("train", f"method=matching backbone=mine method.sharpness=0 {TINY}", tmp_path, **own)
    assert wrong.returncode == 2
    assert "method.sharpness=0: Input should be greater than 0" in wrong.stderr
    alone = run("evaluate", f"run={folder} enable_progress_bar=false", tmp_path)
    assert alone.returncode == 2
    assert "Could not find" in alone.stderr


def test_every_mutation_is_of_what_is_there():
    for mutation in MUTATIONS:
        assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1, mutation


@pytest.mark.slow
def test_the_quickstart_runs_and_is_stored_without_outputs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in codes)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [name for cell in codes for out in cell.outputs for name in out.get("data", {})]
    assert shown.count("image/png") >= 3
    printed = "".join(out.get("text", "") for cell in codes for out in cell.outputs)
    assert "OP-LSTM wins" in printed
    accuracies = [float(number) for number in re.findall(r"(?:ProtoNet|OP-LSTM) ([\d.]+)%", printed)]
    assert len(accuracies) == 2
    assert min(accuracies) > 30  # chance is 20
