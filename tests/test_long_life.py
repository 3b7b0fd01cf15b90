"""The short form of `python -m tests.long_life`."""

from pathlib import Path

import pytest

from tests.long_life import Row, grows, watched
from tests.test_runs import images_of

SHORT = ["trainer.val_every=20", "trainer.save_every=2", "trainer.log_every=2", "trainer.val_tasks=4"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("method", ["lstm", "oplstm"])
def test_a_run_does_not_grow(method: str, tmp_path: Path) -> None:
    """On sine, and on images with an FC net."""
    data = ["data=sine"] if method == "lstm" else [*images_of(tmp_path), "backbone=fc"]
    rows = watched([*data, f"method={method}", "trainer.updates=300", *SHORT], tmp_path)
    assert [row.update for row in rows] == list(range(0, 301, 20))
    assert grows(rows) == []


def test_what_grows_is_told() -> None:
    still = [Row(update, 900 + update % 20, 10**6 - update % 20, 9, 0, 10) for update in range(0, 310, 10)]
    assert grows(still) == []
    for name, more in (("memory_mb", 0.1), ("blocks", 2), ("open_files", 0.1), ("temporary", 0.1), ("in_folder", 0.1)):
        grown = [row._replace(**{name: getattr(row, name) + more * row.update}) for row in still]
        assert grows(grown) == [name]
