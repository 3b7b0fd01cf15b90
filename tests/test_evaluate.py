"""Tests of a run that were made later: on its own data and others', of one's own folder and a stranger's."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fewshot.config.eval_config import eval_config, load_config
from fewshot.config.run_id import run_folder
from fewshot.errors import Diverged, UserError
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run
from tests.helpers import config, evaluation, images_of, kill_at
from tests.made_files import fill_folder, picture

pytestmark = pytest.mark.usefixtures("composed_once", "undrawn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, on sine waves and on a folder of images: outputs to copy."""
    place = tmp_path_factory.mktemp("trained")
    run(config(place))
    run(config(place, *images_of(place), "method=protonet", "trainer.max_steps=10"))
    return place


def copied(trained: Path, data: str, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run's folder in a place of its own, and its result."""
    shutil.copytree(trained / "outputs" / data, tmp_path / "outputs" / data)
    [folder] = (tmp_path / "outputs" / data).glob("*/*/seed*")
    return folder, json.loads((folder / "result.json").read_text())


def test_an_evaluation_repeats_the_runs_own_test(trained: Path, tmp_path: Path) -> None:
    folder, result = copied(trained, "sine", tmp_path)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    assert evaluate(evaluation(folder, tmp_path))["mean"] == pytest.approx(result["mean"], rel=1e-6)
    more = evaluate(evaluation(folder, tmp_path, shots=10, queries=20, tasks=15))
    assert (more["shots"], more["test_queries"], more["tasks"]) == (10, 20, 15)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    kept = {p.name for p in (folder / "evaluations").glob("*.json")}
    assert kept == {"sine-1way-1shot-50queries-30tasks.json", "sine-1way-10shot-20queries-15tasks.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "omniglot"}, "data=omniglot has other inputs"),
        ({"path": "elsewhere"}, "data=folder has other inputs"),
        ({"bn": "support"}, "has no batch norm"),
        ({"tasks": 0}, "tasks=0: Input should be greater"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str, trained: Path, tmp_path: Path) -> None:
    folder, _ = copied(trained, "sine", tmp_path)
    with pytest.raises(UserError, match=message):
        evaluate(evaluation(folder, tmp_path, **changes))
    assert not (folder / "evaluations").exists()


def test_a_trial_of_a_search_can_be_tested_later(tmp_path: Path) -> None:
    cfg = config(tmp_path, "search=lstm_sine", "trial=3", "method.hidden=[8]", "method.passes=1")
    result = run(cfg)
    assert evaluate(evaluation(run_folder(cfg), tmp_path))["mean"] == result["mean"]


def test_an_unfinished_run_can_be_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(tmp_path)
    kill_at(21, cfg, monkeypatch)
    tested = evaluate(evaluation(run_folder(cfg), tmp_path))
    assert (tested["run_status"], tested["tasks"]) == ("unfinished", 30)


def test_tests_on_folders(trained: Path, tmp_path: Path) -> None:
    """A run's own folder and another one, and one that has grown, whose classes may have been trained on."""
    folder, result = copied(trained, "folder", tmp_path)
    other = images_of(tmp_path, "other")
    assert other
    own = evaluate(evaluation(folder, tmp_path, path=str(trained / "images" / ".." / "images")))
    assert own["mean"] == pytest.approx(result["mean"])
    further = evaluate(evaluation(folder, tmp_path, data="folder", path=str(tmp_path / "other")))
    assert (own["test_queries"], further["test_queries"]) == (1, 15)
    names = sorted(p.name for p in (folder / "evaluations").glob("*.json"))
    assert names[0].startswith("folder-images-")
    assert names[1].startswith("folder-other-")
    assert names[1] != names[0]
    assert list(json.loads((folder / "result.json").read_text())["tests"]) == [further["data"]]


def test_a_folder_that_has_grown_is_not_the_runs_own(tmp_path: Path) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    run(cfg)
    folder = run_folder(cfg)
    fill_folder(tmp_path / "images", {f"another/{i}.png": picture(241 + i) for i in range(14)})
    with pytest.raises(UserError, match="the run's data have changed since it began"):
        evaluate(evaluation(folder, tmp_path))


def test_a_run_is_tested_where_its_training_images_never_were(tmp_path: Path) -> None:
    cfg = config(tmp_path, *images_of(tmp_path), "method=protonet", "trainer.max_steps=10")
    result, folder = run(cfg), run_folder(cfg)
    images_of(tmp_path, "other")
    shutil.rmtree(tmp_path / "images")
    tested = evaluate(evaluation(folder, tmp_path, data="folder", path=tmp_path / "other"))
    assert (tested["status"], tested["config_diff"]) == ("finished", result["config_diff"])
    with pytest.raises(UserError, match="images does not exist: give a folder"):
        evaluate(evaluation(folder, tmp_path))


@pytest.mark.parametrize("name", ["omniglot", "mini", "cub", "cub50", "glyphs"])
def test_a_run_on_a_folder_can_be_tested_on_any_named_data(name: str, trained: Path, tmp_path: Path) -> None:
    folder, _ = copied(trained, "folder", tmp_path)
    tested = eval_config(evaluation(folder, tmp_path, data=name), load_config(folder))
    assert (tested.data.name, tested.data.size, tested.data.ways) == (name, 8, 2)
    assert "path" not in tested.data


def test_bn_support_is_a_test_of_its_own(trained: Path, tmp_path: Path) -> None:
    folder, _ = copied(trained, "folder", tmp_path)
    before = (folder / "result.json").read_bytes()
    result = evaluate(evaluation(folder, tmp_path, bn="support"))
    assert (result["bn"], result["train_bn"]) == ("support", "transductive")
    as_trained = evaluate(evaluation(folder, tmp_path))
    assert as_trained["bn"] == "transductive"
    assert len(list((folder / "evaluations").glob("*.json"))) == 2
    assert (folder / "result.json").read_bytes() == before


def test_weights_that_are_not_finite_have_no_score(trained: Path, tmp_path: Path) -> None:
    folder, _ = copied(trained, "folder", tmp_path)
    state = torch.load(folder / "best.ckpt", weights_only=True)
    state["state_dict"]["body.0.weight"][0] = float("nan")
    torch.save(state, folder / "best.ckpt")
    with pytest.raises(Diverged, match="the score of test task 0 was nan"):
        evaluate(evaluation(folder, tmp_path))
    assert not (folder / "evaluations").exists()


def test_a_checkpoint_of_another_method_is_an_error(trained: Path, tmp_path: Path) -> None:
    folder, _ = copied(trained, "sine", tmp_path)
    other = config(tmp_path, "method=oplstm")
    run(other)
    shutil.copyfile(run_folder(other) / "best.ckpt", folder / "best.ckpt")
    with pytest.raises(UserError, match="cannot be loaded as weights of method=lstm"):
        evaluate(evaluation(folder, tmp_path))


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_a_strangers_folder_is_data_not_code(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, _ = copied(trained, "sine", tmp_path)
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value, message in (
        ("method", stored["method"] | {"_target_": "os.mkdir"}, "is another class here"),
        ("backbone", stored["backbone"] | {"_target_": "os.mkdir"}, "is another class here"),
        ("seed", "${oc.env:HOME}", "is not a run's configuration"),
        ("trainer", stored["trainer"] | {"max_steps": "many"}, "trainer.max_steps=many: Input should be"),
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
