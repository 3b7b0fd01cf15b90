"""What an installed package and a user's own one bring."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from fewshot.config.compose import CONF

ROOT = CONF.parent
TINY = "trainer.updates=4 trainer.val_every=2 trainer.val_tasks=4 trainer.test_tasks=4 trainer.bar=false logger=csv"


def run(program: str, arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fewshot", program, *arguments.split()]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEWSHOT_")}
    paths = os.pathsep.join([str(ROOT), environ.pop("PYTHONPATH", "")])
    return subprocess.run(command, cwd=cwd, env=kept | environ | {"PYTHONPATH": paths}, capture_output=True, text=True)


def test_every_folder_of_the_package_is_in_it() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in (ROOT / "fewshot").rglob("__init__.py")}
    assert set(told["packages"]) == found | {"fewshot.conf"}


def test_a_method_and_configs_from_outside(tmp_path: Path) -> None:
    """Found by an entry point and FEWSHOT_CONF, trained, tested; without them the run's folder imports nothing."""
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("name: mine\nlr: 1.0e-3\nmeta_batch: 2\ndepth: 1\n")
    info = tmp_path / "src" / "mypackage-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fewshot.methods]\nmine = mypackage:Mine\n")
    (tmp_path / "src" / "mypackage.py").write_text(
        "from typing import Annotated\n"
        "from fewshot.methods.protonet import ProtoNet\n"
        "from fewshot.options import Few\n"
        "class Mine(ProtoNet):\n"
        "    def __init__(self, *args, depth: Annotated[Few, 'layers'], **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
    )
    own = {"FEWSHOT_CONF": str(tmp_path / "conf"), "PYTHONPATH": str(tmp_path / "src")}
    done = run("train", f"method=mine {TINY}", tmp_path, **own)
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "outputs" / "glyphs" / "mine" / "1-shot").iterdir()
    assert run("evaluate", f"run={folder} bar=false", tmp_path, **own).returncode == 0
    refused = run("train", f"method=mine method.depth=0 {TINY}", tmp_path, **own)
    assert refused.returncode == 2
    assert "method.depth=0: give a whole number from 1 to 10000" in refused.stderr
    alone = run("evaluate", f"run={folder} bar=false", tmp_path)
    assert alone.returncode == 2
    assert "unknown method 'mine'" in alone.stderr
