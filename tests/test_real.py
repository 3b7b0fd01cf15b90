"""The real archives, where FEWSHOT_RAW says they are: prepared, trained on and tested."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot.config.run_id import run_folder
from fewshot.data.folder import files_in
from fewshot.data.images import MINI, open_or_prepare, split_of_bird
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


def test_omniglot(raw, prepared):
    table = open_or_prepare("omniglot", Path(raw), prepared, 28, 1)
    assert table.rows.shape == (1623 * 20, 28, 28, 1)
    published = json.loads((Path(raw) / "omniglot" / "split_vinyals.json").read_text())
    assert {split: list(classes) for split, classes in table.splits.items()} == published
    assert {len(rows) for classes in table.splits.values() for rows in classes.values()} == {20}
    assert 0.02 < (table.rows > 127).mean() < 0.2  # ink is bright, and there is little of it
    files = files_in(Path(raw) / "omniglot")
    first = next(load for name, load in files.items() if published["train"][0] in name)
    image = Image.open(io.BytesIO(first())).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    assert np.array_equal(table.rows[0, :, :, 0], 255 - np.asarray(image))


@pytest.mark.parametrize("classes", [200, 50])
def test_closer_look_split_by_rule(raw, classes):
    published = json.loads((Path(raw) / "cub50" / f"split_closerlook_{classes}.json").read_text())
    assert sum(map(len, published.values())) == classes
    for key, split in (("base", "train"), ("val", "val"), ("novel", "test")):
        assert {split_of_bird(bird) for bird in published[key]} == {split}


def test_cub50(raw, prepared):
    table = open_or_prepare("cub50", Path(raw), prepared, 84, 3)
    assert table.rows.shape == (2889, 84, 84, 3)
    published = json.loads((Path(raw) / "cub50" / "split_closerlook_50.json").read_text())
    assert [list(table.splits[split]) for split in ("train", "val", "test")] == list(published.values())


def test_mini(raw, prepared):
    table = open_or_prepare("mini", Path(raw), prepared, 84, 3)
    assert {split: len(classes) for split, classes in table.splits.items()} == MINI
    assert {len(rows) for classes in table.splits.values() for rows in classes.values()} == {600}
    files = files_in(Path(raw) / "mini")
    for split, classes in table.splits.items():
        rows = [line.split(",") for line in files[f"{split}.csv"]().decode().split()]
        first = min(name for name, label in rows if label == next(iter(classes)))
        image = Image.open(io.BytesIO(files[f"images/{first}"]())).convert("RGB")
        assert np.array_equal(table.rows[next(iter(classes.values())).start], np.asarray(image))
