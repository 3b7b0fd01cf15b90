"""`data=arrays`: tasks from a file of arrays, for classification and for regression."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fewshot.backbones.base import make_body
from fewshot.config.compose import CONF, choices_of
from fewshot.config.run_id import run_folder
from fewshot.data.arrays import ArraySource, read_arrays, standardised
from fewshot.errors import UserError
from fewshot.training.build import make_datamodule
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run
from tests.helpers import config, evaluation

pytestmark = pytest.mark.usefixtures("undrawn")
SHORT = ["data.train_queries=2", "data.val_queries=2", "data.test_queries=2", "trainer.max_steps=4"]
SHORT += ["trainer.val_check_interval=2", "trainer.num_val_tasks=4", "trainer.num_test_tasks=4"]
RANDOM = np.random.default_rng(0)
CLASSES = {"x": RANDOM.normal(5, 3, (60, 4)).astype(np.float32), "y": np.arange(60) % 10}
CLASSES |= {"split": np.array(["train"] * 4 + ["val"] * 3 + ["test"] * 3)[CLASSES["y"]]}
TASKS = {"x": RANDOM.normal(size=(60, 2)), "y": RANDOM.normal(9, 2, (60, 3)), "task": np.arange(60) % 12}


def saved(folder, name="tasks", **arrays):
    np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def source(folder, ways=3, seed=0, **arrays):
    return ArraySource(seed, read_arrays(saved(folder, **arrays)), ways)


def drawn(made, split, tasks, shots=1, queries=2):
    return made.episode(made.draw(split, np.array(tasks), shots, queries), shots)


def in_units_of_training(values, trained):
    return (values - trained.mean(0)) / trained.std(0)


def test_a_class_has_its_rows_in_units_of_the_training_classes(tmp_path):
    made = source(tmp_path, **CLASSES)
    standardised = in_units_of_training(CLASSES["x"], CLASSES["x"][CLASSES["split"] == "train"])
    batch = drawn(made, "test", range(20))
    for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        for task in range(20):
            kinds = [[] for _ in range(3)]
            for row, label in zip(x[task].numpy(), y[task], strict=True):
                [place] = np.flatnonzero(np.isclose(standardised, row, atol=1e-5).all(1))
                kinds[label].append(CLASSES["y"][place])
            assert all(len(set(kind)) == 1 and kind[0] in (7, 8, 9) for kind in kinds)
            assert len({kind[0] for kind in kinds}) == 3


def test_a_regression_task_has_its_own_rows(tmp_path):
    made = source(tmp_path, 1, **TASKS)
    train = np.concatenate([[int(name)] * 5 for name in made.table.splits["train"]])
    of_training = np.isin(TASKS["task"], train)
    x = in_units_of_training(TASKS["x"], TASKS["x"][of_training])
    y = in_units_of_training(TASKS["y"], TASKS["y"][of_training])
    batch = drawn(made, "val", range(20), 2, 3)
    assert batch.query_y.shape == (20, 3, 3)
    for task in range(20):
        places = []
        inputs = torch.cat([batch.support_x[task], batch.query_x[task]]).numpy()
        targets = torch.cat([batch.support_y[task], batch.query_y[task]]).numpy()
        for row, target in zip(inputs, targets, strict=True):
            [place] = np.flatnonzero(np.isclose(x, row, atol=1e-5).all(1))
            assert np.allclose(y[place], target, atol=1e-5)
            places.append(place)
        assert len({*places}) == 5
        assert len({*TASKS["task"][places]}) == 1


@given(st.permutations(range(60)))
def test_the_order_of_rows_changes_no_split(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("arrays")
    made = source(folder, 1, **{name: array[list(order)] for name, array in TASKS.items()})
    assert made.classes() == source(folder, 1, **TASKS).classes()
    assert {name for split in made.table.splits.values() for name in split} == {*map(str, range(12))}


def test_axes_after_a_channel_share_its_scale(tmp_path):
    x = RANDOM.normal(4, 2, (60, 2, 7))
    x[:, 1] = 0.1  # a constant channel becomes zero; numpy's deviation of it is 1e-17
    made = source(tmp_path, **CLASSES | {"x": x})
    train = made.rows[: sum(map(len, made.table.splits["train"].values()))]
    assert train[:, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert train[:, 0].std(correction=0).item() == pytest.approx(1, rel=1e-6)
    assert made.rows[:, 1].abs().max() < 1e-12


def changed(name, index, value, arrays=CLASSES):
    array = arrays[name].copy()
    array[index] = value
    return arrays | {name: array}


WRONG = {  # what is said of some arrays
    "it holds x: x and y are needed": {"x": CLASSES["x"]},
    "it holds x, y, split, z:": CLASSES | {"z": CLASSES["y"]},
    r"x\[3\] has numbers that are not finite": changed("x", (3, 1), np.nan),
    r"y\[3\] has numbers that are not finite": changed("y", (3, 1), np.inf, TASKS),
    r"x has shape \(60,\) and type float32: numbers": CLASSES | {"x": CLASSES["x"][:, 0]},
    r"x has shape \(60, 4\) and type <U": CLASSES | {"x": CLASSES["x"].astype(str)},
    r"y has shape \(60,\), type float64: \(n,\), whole": CLASSES | {"y": CLASSES["y"] / 2},
    r"task has shape \(60, 2\)": TASKS | {"task": np.zeros((60, 2), int)},
    r"y has shape \(60,\) and type int64: numbers \(n, ...\)": TASKS | {"y": CLASSES["y"]},
    r"y has shape \(60, 1, 1\): \(n, outputs\)": TASKS | {"y": np.zeros((60, 1, 1))},
    "x has 60 rows, y has 50 rows, split has 60 rows": CLASSES | {"y": CLASSES["y"][:50]},
    "split says train, val or test, not tes": changed("split", 0, "tes"),
    r"split has shape \(60, 1\)": CLASSES | {"split": CLASSES["split"][:, None]},
    "class 0 is in 2 splits": changed("split", 0, "test"),
    "train, val and test each need a class": changed("split", CLASSES["split"] == "test", "train"),
    r"is no .npz file of plain arrays: ValueError: Object arrays.*give text as .astype\(str\)": CLASSES
    | {"y": np.array([{}] * 60)},
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_arrays_are_rejected(said, tmp_path):
    with pytest.raises(UserError, match=said):
        read_arrays(saved(tmp_path, **WRONG[said]))


def test_numbers_too_large_for_training_are_rejected():
    with pytest.raises(UserError, match=r"x has numbers too large for torch\.float32 after standardisation"):
        standardised("x", np.array([[0.0], [1e60]]), [0.0], [1.0])


def test_too_few_rows_and_wrong_ways_are_rejected_before_training(tmp_path):
    own = ["data=arrays", f"data.path={saved(tmp_path, **CLASSES)}", "data.ways=3", *SHORT]
    with pytest.raises(UserError, match=r"3 ways need as many train classes; 0 have 7 examples"):
        run(config(tmp_path, *own, "shots=5"))
    with pytest.raises(UserError, match=r"data.ways=1: 1 in regression, else 2 or more"):
        run(config(tmp_path, *own, "data.ways=1"))
    (tmp_path / "no.npz").write_text("x,y")
    with pytest.raises(UserError, match=r"no.npz is no .npz file of plain arrays"):
        run(config(tmp_path, *own, f"data.path={tmp_path / 'no.npz'}"))


def test_a_run_keeps_its_scales(tmp_path, capsys):
    """Other data are standardised as the run's own: in their own units they would look alike."""
    path = saved(tmp_path, **TASKS)
    cfg = config(tmp_path, "data=arrays", f"data.path={path}", "shots=2", *SHORT)
    result = run(cfg)
    assert (result["metric"], result["ways"], result["status"]) == ("mse", 1, "finished")
    split = json.loads((run_folder(cfg) / "split.json").read_text())
    assert split["scales"]["x"] == list(map(list, ArraySource(0, read_arrays(path), 1).scales["x"]))
    assert evaluate(evaluation(run_folder(cfg), tmp_path))["mean"] == result["mean"]
    shifted = saved(tmp_path, "shifted", **TASKS | {"y": 100 + TASKS["y"]})
    other = evaluate(evaluation(run_folder(cfg), tmp_path, path=shifted, queries=2))
    assert other["mean"] > 100 * result["mean"]
    only_test = saved(tmp_path, "only_test", **TASKS | {"split": np.full(60, "test")})
    own = evaluate(evaluation(run_folder(cfg), tmp_path, path=only_test, queries=2))
    assert "test classes have names of the run's training classes, as 0" in capsys.readouterr().err
    assert own["mean"] < other["mean"] / 100
    wider = saved(tmp_path, "wider", **TASKS | {"x": np.zeros((60, 3))})
    with pytest.raises(UserError, match=r"x is \(3,\), and its scale in the run \(2,\)"):
        evaluate(evaluation(run_folder(cfg), tmp_path, path=wider, queries=2))
    with pytest.raises(UserError, match="the run was trained on arrays: data=sine has other inputs"):
        evaluate(evaluation(run_folder(cfg), tmp_path, data="sine"))


def test_predictions_of_several_outputs(tmp_path):
    cfg = config(tmp_path, "data=arrays", f"data.path={saved(tmp_path, **TASKS)}", "predictions=true", *SHORT)
    result = run(cfg)
    kept = pd.read_csv(run_folder(cfg) / "predictions.csv")
    assert kept.columns.tolist() == ["task", "query", "output", "target", "prediction"]
    assert kept.groupby("task").size().tolist() == [2 * 3] * 4
    batch = make_datamodule(cfg, "test").episode("test", range(4))
    assert np.allclose(kept["target"], batch.query_y.flatten(), atol=1e-5)
    errors = (kept["target"] - kept["prediction"]).pow(2)
    assert errors.groupby(kept["task"]).mean().mean() == pytest.approx(result["mean"], rel=1e-5)


def test_a_file_that_changed_is_not_the_runs_own(tmp_path):
    path = saved(tmp_path, **TASKS)
    cfg = config(tmp_path, "data=arrays", f"data.path={path}", *SHORT)
    run(cfg)
    folder = run_folder(cfg)  # its hash has the file's date
    saved(tmp_path, **TASKS | {"y": TASKS["y"] + 1})
    result = evaluate(evaluation(folder, tmp_path))
    assert result["data"].startswith("arrays-tasks.npz-")


def test_pretrained_image_models_take_no_arrays(tmp_path):
    images = saved(tmp_path, **CLASSES | {"x": RANDOM.normal(size=(60, 3, 32, 32))})
    own = ["data=arrays", f"data.path={images}", "data.ways=3", "method=protonet", "backbone=torchvision"]
    with pytest.raises(UserError, match="backbone=torchvision is for images, not for arrays"):
        config(tmp_path, *own)


@given(length=st.integers(4, 11), channels=st.integers(1, 3))
def test_conv1d_is_a_stack_of_one_dimensional_convolutions(length, channels):
    body = make_body((channels, length), {"layer": "conv1d", "widths": [3, 4], "bn": "none"}).double()
    x = torch.randn(2, 5, channels, length, dtype=torch.float64)
    expected = x.flatten(0, 1)
    for block in body:
        convolved = F.conv1d(expected, block.weight.squeeze(2), block.bias, padding=1)
        expected = F.max_pool1d(F.relu(convolved), 2)
    torch.testing.assert_close(body(x), expected.flatten(1).unflatten(0, (2, 5)))
    assert body.features == 4 * (length // 4)


def make_example(data, folder):
    """By the scripts of the page on data, or those in examples."""
    blocks = re.findall(r"```python\n(.*?)```", (CONF.parent / "docs" / "add-data.md").read_text(), re.S)
    named = [["-c", block] for block in blocks if f'"{data}.npz"' in block]
    script = [CONF.parent / "examples" / ("sensors.py" if data == "sensors" else "public.py")]
    subprocess.run([sys.executable, *(named or [script])[0]], cwd=folder, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "fertility", "elnino", "sensors"])
def test_every_learner_that_can_runs_on_the_examples(data, tmp_path):
    pytest.importorskip("sklearn")
    make_example(data, tmp_path)
    own = ["data=arrays", f"data.path={tmp_path / f'{data}.npz'}", *SHORT]
    own += {"digits": ["data.ways=3"], "sensors": ["backbone=conv1d"]}.get(data, [])
    regression = data in ("fertility", "elnino")
    for method in sorted({*choices_of("method")} - {"oplstm_all"}):  # for it settings are to be given
        if regression and method in ("protonet", "nearest_centroid", "logistic"):
            with pytest.raises(UserError, match=f"method={method} classifies, and data=arrays is regression"):
                config(tmp_path, *own, f"method={method}")
        else:
            more = ["backbone=raw"] * (method in ("nearest_centroid", "logistic"))  # they train no network
            more += ["method.layers=all"] * (method == "warp_oplstm" and data == "sensors")
            assert np.isfinite(run(config(tmp_path, *own, f"method={method}", *more))["mean"])
