"""The real archives through the whole path: prepared, trained on, tested, and tested across data sets."""

from pathlib import Path

import pytest

from fewshot.config.checks import check
from fewshot.config.compose import composed
from fewshot.config.run_id import run_folder
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run as train
from tests.helpers import evaluation

SHORT = [
    "trainer.max_steps=2",
    "trainer.val_check_interval=1",
    "trainer.num_val_tasks=2",
    "trainer.num_test_tasks=4",
    "trainer.eval_batch_size=2",
    "trainer.enable_progress_bar=false",
    "logger=csv",
    "method.meta_batch_size=2",
]


def run(raw: str, prepared: Path, tmp_path: Path, *overrides: str) -> Path:
    paths = [f"paths.raw={raw}", f"paths.prepared={prepared}", f"paths.outputs={tmp_path}"]
    cfg = composed([*overrides, *SHORT, *paths])
    check(cfg)
    assert train(cfg)["status"] == "finished"
    return run_folder(cfg)


@pytest.mark.parametrize("method", ["protonet", "oplstm", "maml", "lstm", "warpmaml", "sap"])
def test_omniglot(method: str, raw: str, prepared: Path, tmp_path: Path) -> None:
    small = ["method.hidden=[16,8]"] if method == "lstm" else []
    folder = run(raw, prepared, tmp_path, "data=omniglot", f"method={method}", *small)
    paths = {"paths.raw": raw, "paths.prepared": prepared}
    across = evaluate(evaluation(folder, tmp_path, data="glyphs", **paths))
    assert (across["data"], across["trained_on"], across["tasks"]) == ("glyphs", "omniglot", 4)


@pytest.mark.parametrize("method", ["protonet", "oplstm", "lstm"])
def test_mini_and_then_cub50(method: str, raw: str, prepared: Path, tmp_path: Path) -> None:
    narrow = ["backbone.widths=[4,4,4,4]", "data.train_queries=2", "data.val_queries=2"]
    narrow += ["method.hidden=[16,8]"] if method == "lstm" else []
    folder = run(raw, prepared, tmp_path, "data=mini", f"method={method}", "shots=5", *narrow)
    paths = {"paths.raw": raw, "paths.prepared": prepared}
    across = evaluate(evaluation(folder, tmp_path, data="cub50", **paths))
    assert (across["data"], across["trained_on"], across["test_queries"]) == ("cub50", "mini", 15)
