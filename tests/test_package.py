"""What an installed package and a user's own one bring."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import fewshot
from fewshot.config.compose import CONF
from tests.conftest import tables
from tests.mutations import MUTATIONS

ROOT = CONF.parent
TINY = "trainer.max_steps=4 trainer.val_check_interval=2 trainer.num_val_tasks=4 trainer.num_test_tasks=4 trainer.enable_progress_bar=false logger=csv"


def run(program: str, arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fewshot", program, *arguments.split()]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEWSHOT_")}
    kept |= {"FEWSHOT_PREPARED": str(tables(cwd))}
    paths = os.pathsep.join([str(ROOT), environ.pop("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=cwd, env=kept | environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )


def test_every_folder_of_the_package_is_in_it() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for path in (ROOT / "fewshot").rglob("__init__.py")
    }
    assert set(told["packages"]) == found | {"fewshot.conf"}


ADVISORIES = {  # the newest version that each advisory names
    "lightning==2.6.3": "GHSA-w37p-236h-pfx3, steals credentials",
    "lightning==2.6.5": "GHSA-qqmf-gpg7-g8gw, runs a checkpoint's _instantiator",
    "hydra-core==1.3.5": "GHSA-37p2, instantiate's block list can be bypassed",
    "torch==2.9.1": "CVE-2026-24747, weights_only",
    "pillow==12.2.0": "PYSEC-2026-3451 to 3453",
    "filelock==3.20.2": "CVE-2025-68146 and CVE-2026-22701",
    "pydantic==2.3.0": "CVE-2024-3772",
    "onnx==1.20.1": "CVE-2026-27489 and CVE-2026-28500",
    "pytest==9.0.2": "CVE-2025-71176",
    "setuptools==78.1.0": "CVE-2025-47273",
}


@pytest.mark.parametrize("version", ADVISORIES)
def test_no_version_with_a_known_advisory_is_allowed(version: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [project["build-system"]["requires"], project["project"]["dependencies"]]
    lists += project["project"]["optional-dependencies"].values()
    name, _, bad = version.partition("==")
    asked = [Requirement(line) for lines in lists for line in lines]
    bounds = [requirement.specifier for requirement in asked if requirement.name == name]
    assert bounds
    assert not any(bad in bound for bound in bounds)


def test_what_a_notebook_imports_is_there_and_light() -> None:
    assert all(getattr(fewshot, name) is not None for name in fewshot.__all__)
    assert set(fewshot.__all__) <= set(dir(fewshot))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = fewshot.nothing
    light = "import sys, fewshot; assert not {'torch', 'lightning', 'numpy'} & {*sys.modules}; from fewshot import *; MAML"
    assert subprocess.run([sys.executable, "-c", light], cwd=ROOT).returncode == 0


def test_the_pages_method_and_backbone_run(tmp_path: Path) -> None:
    """As files of a copy of the checkout, the backbone under a learner that adapts it."""
    for name in ("fewshot", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "docs" / "add-a-method.md").read_text()
    method, backbone = re.findall(r"```python\n(from.*?)```\n+```yaml\n(.*?)```", text, re.S)
    for group, (code, settings) in {"methods": method, "backbones": backbone}.items():
        (tmp_path / "fewshot" / group / "mine.py").write_text(code)
        (tmp_path / "conf" / group.removesuffix("s") / "mine.yaml").write_text(settings)
    done = run(
        "train",
        f"method=maml backbone=mine method.lr=0.001 method.meta_batch_size=2 {TINY}",
        tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "backbone mine, bn none" in done.stderr
    for wrong in ("method=mine method.depth=0", "backbone=mine backbone.width=x"):
        refused = run("train", f"{wrong} {TINY}", tmp_path, PYTHONPATH=str(tmp_path))
        assert refused.returncode == 2
        assert f"{wrong.split()[1]}: give a whole number" in refused.stderr


def test_a_method_a_backbone_and_configs_from_outside(tmp_path: Path) -> None:
    """Found by entry points and FEWSHOT_CONF, trained, tested; without them the run's folder imports nothing."""
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "backbone").mkdir()
    (tmp_path / "conf" / "backbone" / "flat.yaml").write_text("name: flat\nbody: flat\nwidth: 5\n")
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(
        "name: mine\nlr: 1.0e-3\nmeta_batch: 2\ndepth: 1\n"
    )
    info = tmp_path / "src" / "mypackage-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[fewshot.methods]\nmine = mypackage:Mine\n[fewshot.backbones]\nflat = mypackage:Flat\n"
    )
    (tmp_path / "src" / "mypackage.py").write_text(
        "from typing import Annotated\n"
        "from torch import nn\n"
        "from fewshot import Body\n"
        "from fewshot.methods.protonet import ProtoNet\n"
        "from fewshot.options import Few\n"
        "class Mine(ProtoNet):\n"
        "    def __init__(self, *args, depth: Annotated[Few, 'layers'], **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "class Flat(Body):\n"
        "    flat = True\n"
        "    def __init__(self, input_shape, width: Annotated[Few, 'outputs']):\n"
        "        super().__init__()\n"
        "        self.layer, self.features = nn.Linear(28 * 28, width), width\n"
        "    def forward(self, x, reference=None):\n"
        "        return self.layer(x.flatten(2))\n"
    )
    own = {"FEWSHOT_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path / "src")}
    done = run("train", f"method=mine backbone=flat {TINY}", tmp_path, **own)
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "outputs" / "glyphs" / "mine" / "1-shot").iterdir()
    assert run("evaluate", f"run={folder} enable_progress_bar=false", tmp_path, **own).returncode == 0
    alone = run("evaluate", f"run={folder} enable_progress_bar=false", tmp_path)
    assert alone.returncode == 2
    assert "unknown method 'mine'" in alone.stderr or "unknown backbone 'flat'" in alone.stderr


def test_a_derived_learner_may_have_fewer_options() -> None:
    """The rules of its base for options together are of those that it has."""

    class Few(fewshot.MAML):
        def __init__(self, task: fewshot.Task, backbone: Any, lr: fewshot.Lr) -> None:
            super().__init__(task, backbone, lr, inner_lr=0.1, steps=1, eval_inner_steps=1)

    Few(fewshot.Task((4,), 2, False), {"layer": "linear", "widths": [3]}, lr=0.1)


def test_no_program_is_a_mistake(tmp_path: Path) -> None:
    done = run("nothing", "", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: nothing is no program: python -m fewshot train …, or evaluate …\n"


def test_every_mutation_is_of_what_is_there() -> None:
    counts = {m: (ROOT / m.file).read_text(encoding="utf-8").count(m.old) for m in MUTATIONS}
    assert {m: count for m, count in counts.items() if count != 1} == {}
