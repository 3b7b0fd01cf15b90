"""The code of the documentation runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from fewshot.config.compose import CONF


def test_the_notebook_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (CONF.parent / "docs" / "notebook.md").read_text(), re.S)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    printed = capfd.readouterr().out
    assert names["score"]["test/accuracy"] > 40  # chance is 20
    assert "normalisation=rows: choose one of example, matrix, joint, none" in printed
    assert names["episode"].support_x.shape == (3, 5, 1, 28, 28)
    assert names["predictions"].shape == (3, 25, 5)
    assert (tmp_path / "task.png").stat().st_size > 1000
