"""What an installed package and a user's own one bring."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fewshot.config.compose import CONF
from tests.conftest import tables
from tests.mutations import MUTATIONS

ROOT = CONF.parent
TINY = "trainer.max_steps=4 trainer.val_check_interval=2 trainer.num_val_tasks=4 trainer.num_test_tasks=4 "
TINY += "trainer.enable_progress_bar=false logger=csv"


def run(program: str, arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
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
    """As the page says: classes that Python can import, and a YAML each in a folder of configs."""
    text = (ROOT / "docs" / "add-a-method.md").read_text()
    codes, yamls = (re.findall(rf"```{kind}\n(.*?)```", text, re.S) for kind in ("python", "yaml"))
    code = {name: next(c for c in codes if f"class {name}(" in c) for name in ("MetaSGD", "Mine")}
    settings = {name: next(y for y in yamls if f".{name}\n" in y) for name in code}
    own_classes = ("method", "metasgd", "metasgd", "MetaSGD"), ("backbone", "mine", "mypackage", "Mine")
    for group, file, module, name in own_classes:
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{file}.yaml").write_text(settings[name])
        (tmp_path / f"{module}.py").write_text(code[name])
    own = {"FEWSHOT_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path)}
    done = run("train", f"method=metasgd backbone=mine {TINY}", tmp_path, **own)
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "outputs" / "glyphs" / "metasgd" / "1-shot").iterdir()
    assert run("evaluate", f"run={folder} enable_progress_bar=false", tmp_path, **own).returncode == 0
    wrong = run("train", f"method=metasgd backbone=mine method.inner_steps=0 {TINY}", tmp_path, **own)
    assert wrong.returncode == 2
    assert "MetaSGD: inner_steps=0: Input should be greater than or equal to 1" in wrong.stderr
    alone = run("evaluate", f"run={folder} enable_progress_bar=false", tmp_path)
    assert alone.returncode == 2
    assert "Could not find" in alone.stderr


def test_every_mutation_is_of_what_is_there():
    for mutation in MUTATIONS:
        assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1, mutation
