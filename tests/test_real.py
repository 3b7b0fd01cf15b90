"""The real archives: prepared, trained on, tested, and tested across data sets."""

import pytest

from fewshot.config.run_id import run_folder
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run
from tests.helpers import config, evaluation

pytestmark = pytest.mark.slow
SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.num_val_tasks=2"]
SHORT += ["trainer.num_test_tasks=4", "trainer.eval_batch_size=2"]
NARROW = ["shots=5", "backbone.widths=[4,4,4,4]", "data.train_queries=2", "data.val_queries=2"]
CASES = [("omniglot", "glyphs", name) for name in ("protonet", "oplstm", "maml", "lstm", "warpmaml", "sap")]
CASES += [("mini", "cub50", name) for name in ("protonet", "oplstm", "lstm")]


@pytest.mark.parametrize(("data", "other", "method"), CASES)
def test_a_run_and_a_test_on_other_data(data, other, method, raw, prepared, tmp_path):
    settings = [f"data={data}", f"method={method}", *SHORT, *NARROW * (data == "mini")]
    settings += ["method.hidden=[16,8]"] * (method == "lstm")
    cfg = config(tmp_path, *settings, f"paths.raw={raw}", f"paths.prepared={prepared}")
    assert run(cfg)["status"] == "finished"
    paths = {"paths.raw": raw, "paths.prepared": prepared}
    across = evaluate(evaluation(run_folder(cfg), tmp_path, data=other, **paths))
    assert (across["data"], across["trained_on"], across["tasks"]) == (other, data, 4)
