"""`backbone.frozen=true`: learners see the features of a network that is not trained."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fewshot.config.compose import composed
from fewshot.config.run_id import run_folder, table_name
from fewshot.data.table import Table
from fewshot.errors import UserError
from fewshot.report.__main__ import PRETRAINED, make_report
from fewshot.training.build import make_datamodule
from fewshot.training.evaluate import evaluate
from fewshot.training.features import features
from fewshot.training.folder import load_weights
from fewshot.training.run import run
from tests.conftest import CLASSES, FC
from tests.helpers import config, evaluation, images_of

pytestmark = pytest.mark.usefixtures("undrawn")


def images(tmp_path):
    return [*images_of(tmp_path), "backbone=fc", "backbone.widths=[6,5]", "data.test_queries=3"]


def trained(tmp_path, own):
    cfg = config(tmp_path, *own, "method=protonet", "method.lr=1e-2")
    run(cfg)
    return run_folder(cfg)


def feature_files(cfg):
    return sorted(Path(cfg.paths.prepared).glob(f"{table_name(cfg)}-{cfg.backbone.name}-*.npy"))


def test_learners_see_the_features_of_a_run(tmp_path):
    """Centred by the training classes, divided by one number, and normalised by 500 of their images."""
    own = images(tmp_path)
    folder = trained(tmp_path, own)
    frozen = [*own, f"backbone.weights={folder}", "backbone.frozen=true"]
    cfg = config(tmp_path, *frozen, "method=nearest_centroid")
    result = run(cfg)
    assert (result["status"], result["best_step"], result["train_tasks"]) == ("finished", 0, 0)
    assert (result["backbone"], result["parameters"]) == ("fc", 0)

    source = make_datamodule(config(tmp_path, *own, "method=protonet", "method.lr=1e-2"), "test").source
    learner = CLASSES["protonet"](source.task, FC | {"widths": [6, 5]}, lr=1e-2).eval()
    load_weights(learner, folder / "best.ckpt")
    count = sum(map(len, source.table.splits["train"].values()))
    reference = source.examples(torch.arange(count)[None])  # there are fewer than 500
    expected = []
    for row in range(len(source.rows)):
        both = torch.cat([reference, source.examples(torch.tensor([[row]]))], 1)
        expected.append(learner.body(both, count)[0, count].detach())
    expected = torch.stack(expected)
    centred = expected - expected[:count].mean(0)
    centred /= centred[:count].square().mean().sqrt()
    rows = make_datamodule(cfg, "test").source.rows
    torch.testing.assert_close(rows, centred, rtol=1e-4, atol=1e-4)

    [file] = feature_files(cfg)
    written = file.stat().st_mtime_ns
    again = config(tmp_path, *frozen, "method=nearest_centroid", "overwrite=true")
    assert run(again)["mean"] == result["mean"]
    assert file.stat().st_mtime_ns == written
    assert evaluate(evaluation(run_folder(cfg), tmp_path))["mean"] == result["mean"]
    assert PRETRAINED in make_report("arena", [*frozen, "method=nearest_centroid", "seed=0"]).notes


def test_batch_norm_without_training_classes_is_rejected():
    table = Table(np.zeros((2, 3)), {"train": {}, "val": {}, "test": {"a": range(2)}}, "")
    with pytest.raises(UserError, match="needs training classes, and there are none"):
        features(SimpleNamespace(table=table), SimpleNamespace(bn="support"), torch.device("cpu"))


@pytest.mark.slow
def test_learners_with_and_without_training_on_features(tmp_path):
    own = [*images(tmp_path)[:-3], "backbone=conv4", "backbone.widths=[4,4]", "data.test_queries=3"]
    frozen = [*own, f"backbone.weights={trained(tmp_path, own)}", "backbone.frozen=true"]
    for method in (
        "logistic",
        "protonet",
        "ridge",
        "deltanet",
        "oplstm",
        "lstm",
        "maml",
        "metasgd",
        "reptile",
    ):
        assert np.isfinite(run(config(tmp_path, *frozen, f"method={method}"))["mean"])
    for method in ("sap", "warpmaml"):
        with pytest.raises(UserError, match="between blocks"):
            run(config(tmp_path, *frozen, f"method={method}"))


def test_other_weights_have_other_features(tmp_path):
    own = images(tmp_path)
    folder = trained(tmp_path, own)
    for number in range(2):
        cfg = config(tmp_path, *own, f"backbone.weights={folder}", "backbone.frozen=true", "method=logistic")
        run(cfg)
        assert len(feature_files(cfg)) == number + 1
        state = torch.load(folder / "best.ckpt", weights_only=True)
        state["state_dict"] = {name: 2 * w + 1 for name, w in state["state_dict"].items()}
        torch.save(state, folder / "best.ckpt")


def test_a_frozen_run_is_tested_on_other_images(tmp_path):
    own = images(tmp_path)
    frozen = [*own, f"backbone.weights={trained(tmp_path, own)}", "backbone.frozen=true"]
    cfg = config(tmp_path, *frozen, "method=nearest_centroid", f"data.test=[{tmp_path / 'others'}]")
    images_of(tmp_path, "others")
    result = run(cfg)
    assert result["bn"] == "stored"
    [other] = (run_folder(cfg) / "evaluations").glob("folder-others-*/result.json")
    assert json.loads(other.read_text())["mean"] is not None
    with pytest.raises(UserError, match="bn=support: the run's backbone does not normalise by sets"):
        evaluate(evaluation(run_folder(cfg), tmp_path, bn="support"))
    learner = CLASSES["nearest_centroid"].load_from_checkpoint(
        run_folder(cfg) / "best.ckpt", weights_only=True
    )
    assert learner.body.features == 5


def test_a_library_model_that_is_frozen_has_its_stored_statistics():
    for backbone, options in (
        ("torchvision", ["backbone.weights=x"]),
        ("timm", ["backbone.weights=x"]),
        ("frozen", []),
    ):
        cfg = composed(["data=cub", "method=logistic", f"backbone={backbone}", *options])
        assert cfg.backbone.bn == ("stored" if backbone == "frozen" else "transductive")
        cfg = composed(
            ["data=cub", "method=logistic", f"backbone={backbone}", *options, "backbone.frozen=true"]
        )
        assert cfg.backbone.bn == "stored"


def test_what_cannot_be_frozen(tmp_path):
    with pytest.raises(
        UserError, match=r"method=logistic is not trained: give backbone.weights, or backbone"
    ):
        run(config(tmp_path, *images(tmp_path), "method=logistic"))
    with pytest.raises(UserError, match=r"backbone.frozen=true needs backbone.weights"):
        run(config(tmp_path, *images(tmp_path), "backbone.frozen=true", "method=ridge"))
    with pytest.raises(UserError, match="data from files"):
        run(config(tmp_path, "data=sine", "backbone.frozen=true", "backbone.weights=x", "method=maml"))
