"""Tests of a run that were made later: on its own data and others', of one's own folder and a stranger's."""

import json
import os
import shutil

import pytest
import torch
import yaml

from fewshot.config.run_id import run_folder
from fewshot.errors import MISTAKES, UserError
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run
from tests.helpers import config, contents, evaluation, images_of, kill_at

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished runs, on sine waves and on a folder of images: outputs to copy."""
    place = tmp_path_factory.mktemp("trained")
    run(config(place))
    run(config(place, *images_of(place), "method=protonet", "trainer.max_steps=10"))
    return place


def copied(trained, data, tmp_path):
    """A run's folder in a place of its own, and its result."""
    shutil.copytree(trained / "outputs" / data, tmp_path / "outputs" / data)
    [folder] = (tmp_path / "outputs" / data).glob("*/*/seed*")
    return folder, json.loads((folder / "result.json").read_text())


def test_an_evaluation_repeats_the_runs_own_test(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fewshot.results.record.diagnostics", lambda *_: ["at chance"])
    folder, result = copied(trained, "sine", tmp_path)
    before = contents(folder)
    again = evaluate(evaluation(folder, tmp_path))
    assert (again["mean"], again["warnings"]) == (pytest.approx(result["mean"], rel=1e-6), ["at chance"])
    assert "warning: at chance" in capsys.readouterr().out
    more = evaluate(evaluation(folder, tmp_path, shots=10, queries=20, tasks=15))
    assert (more["shots"], more["test_queries"], more["tasks"]) == (10, 20, 15)
    assert contents(folder) == before
    kept = {path.parent.name for path in folder.glob("evaluations/*/result.json")}
    assert kept == {"sine-1way-1shot-50queries-30tasks", "sine-1way-10shot-20queries-15tasks"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": 3}, "ways"),
        ({"data": "omniglot"}, "data=omniglot has other inputs"),
        ({"path": "elsewhere"}, "data=folder has other inputs"),
        ({"tasks": 0}, "tasks=0: Input should be greater"),
    ],
)
def test_mistakes(changes, message, trained, tmp_path):
    folder, _ = copied(trained, "sine", tmp_path)
    with pytest.raises(MISTAKES, match=message):
        evaluate(evaluation(folder, tmp_path, **changes))
    assert not (folder / "evaluations").exists()


def test_an_unfinished_run_can_be_tested(tmp_path, monkeypatch):
    cfg = config(tmp_path)
    kill_at(21, cfg, monkeypatch)
    tested = evaluate(evaluation(run_folder(cfg), tmp_path))
    assert (tested["run_status"], tested["tasks"]) == ("unfinished", 30)


def test_tests_on_folders(trained, tmp_path):
    folder, result = copied(trained, "folder", tmp_path)
    before = contents(folder)
    images_of(tmp_path, "other")
    path = str(trained / "images" / ".." / "images")
    own = evaluate(evaluation(folder, tmp_path, path=path, predictions=True))
    assert own["mean"] == pytest.approx(result["mean"])
    supported = evaluate(evaluation(folder, tmp_path, bn="support", predictions=True))
    assert (own["bn"], supported["bn"], supported["train_bn"]) == ("transductive", "support", "transductive")
    first, second = (path.read_bytes() for path in folder.glob("evaluations/*/predictions.csv"))
    assert first != second
    further = evaluate(evaluation(folder, tmp_path, data="folder", path=str(tmp_path / "other")))
    assert (own["test_queries"], further["test_queries"]) == (1, 15)
    names = ["folder-2way-1shot-1queries-30tasks", "folder-2way-1shot-1queries-30tasks-bn-support"]
    names += [f"{further['data']}-2way-1shot-15queries-30tasks"]
    assert sorted(path.name for path in (folder / "evaluations").iterdir()) == names
    assert further["data"].startswith("folder-other-")
    assert contents(folder) == before


def test_a_run_is_tested_where_its_training_images_never_were(tmp_path):
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    result, folder = run(cfg), run_folder(cfg)
    (tmp_path / "images").rename(tmp_path / "other")
    tested = evaluate(evaluation(folder, tmp_path, data="folder", path=tmp_path / "other"))
    assert (tested["status"], tested["config_diff"]) == ("finished", result["config_diff"])
    with pytest.raises(UserError, match="images does not exist: give a folder"):
        evaluate(evaluation(folder, tmp_path))


class Malice:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_an_untrusted_folder_is_data_not_code(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = copied(trained, "sine", tmp_path)
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value, message in (
        ("method", stored["method"] | {"_target_": "os.mkdir"}, "is another class here"),
        ("backbone", stored["backbone"] | {"_target_": "os.mkdir"}, "is another class here"),
        ("seed", "${oc.env:HOME}", "is not a run's configuration"),
    ):
        (folder / "config.yaml").write_text(yaml.safe_dump(stored | {key: value}))
        with pytest.raises(UserError, match=message):
            evaluate(evaluation(folder, tmp_path))
    (folder / "config.yaml").write_text("!!python/object/apply:os.mkdir ['executed']")
    with pytest.raises(Exception, match="python/object"):
        evaluate(evaluation(folder, tmp_path))
    (folder / "config.yaml").write_text(yaml.safe_dump(stored))
    torch.save({"state_dict": Malice()}, folder / "best.ckpt")
    with pytest.raises(UserError, match="cannot be loaded"):
        evaluate(evaluation(folder, tmp_path))
    assert not (tmp_path / "executed").exists()
