"""Backbones that start from a file of weights, or from a run of another learner."""

import os

import pytest
import torch

from fewshot.backbones.base import make_body
from fewshot.config.run_id import identity, run_folder
from fewshot.errors import UserError
from fewshot.methods.base import Task
from fewshot.training.evaluate import evaluate
from fewshot.training.run import run as train
from tests.conftest import CLASSES, OPTIONS
from tests.helpers import config, evaluation
from tests.test_backbones import RESNET, TORCHVISION

pytestmark = pytest.mark.usefixtures("undrawn")

OWN = {
    "conv": ({"layer": "conv", "widths": [3, 4], "bn": "transductive"}, (1, 16, 16)),
    "linear": ({"layer": "linear", "widths": [6, 5], "bn": "none"}, (7,)),
    "resnet12": (RESNET, (1, 16, 16)),
}


class Runs:
    """Pickled, it would run code on loading."""

    def __reduce__(self):
        return os.mkdir, (os.environ["FEWSHOT_NEVER"],)


def test_files_of_weights_that_do_not_fit_are_rejected(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setenv("FEWSHOT_NEVER", str(tmp_path / "ran"))
    torch.save(torchvision.models.get_model("resnet34").state_dict(), tmp_path / "other.pth")
    torch.save(Runs(), tmp_path / "runs.pth")
    for name, why in (("other.pth", "Unexpected key"), ("runs.pth", "Weights only"), ("none.pth", "No such")):
        with pytest.raises(UserError, match=f"cannot be loaded: .*{why}"):
            make_body((3, 32, 32), TORCHVISION | {"weights": str(tmp_path / name)})
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_run_from_a_file(tmp_path):
    """The name of its folder has the digest of the weights; a test does not read the file."""
    import torchvision

    file = tmp_path / "own.pth"
    torch.save(torchvision.models.get_model("shufflenet_v2_x0_5").state_dict(), file)
    small = ["data=glyphs", "method=protonet", "backbone=torchvision", "backbone.model=shufflenet_v2_x0_5"]
    small += ["backbone.bn=stored"]
    cfg = config(tmp_path, *small, f"backbone.weights={file}")
    result, folder = train(cfg), run_folder(cfg)
    assert (result["backbone"], result["bn"]) == ("torchvision/shufflenet_v2_x0_5", "stored")
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "own.pth")
    cfg = config(tmp_path, *small, f"backbone.weights={moved}")
    assert run_folder(cfg) == folder
    moved.unlink()
    assert evaluate(evaluation(folder, tmp_path))["mean"] == result["mean"]


@pytest.mark.parametrize("name", OWN)
def test_own_networks_start_from_a_file(name, tmp_path):
    backbone, shape = OWN[name]
    trained, file = make_body(shape, backbone), tmp_path / name
    if name == "linear":
        file = file.with_suffix(".safetensors")
        pytest.importorskip("safetensors.torch").save_file(trained.state_dict(), file)
    else:
        torch.save({"model": trained.state_dict()}, file)
    body = make_body(shape, backbone | {"weights": str(file)})
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in body.state_dict().items())


@pytest.mark.parametrize("method", ["protonet", "lstm", "oplstm", "maml", "warpmaml", "sap"])
def test_every_learner_starts_from_a_run_of_another(method, tmp_path):
    """Pretrained as a prototypical network or by MAML, which keep their body under different names."""
    backbone, shape = OWN["conv"]
    task = Task(shape, 3, False)
    for first in ("protonet", "maml"):
        pretrained = CLASSES[first](task, backbone, **OPTIONS[first])
        folder = tmp_path / first
        folder.mkdir()
        state = {"state_dict": pretrained.state_dict(), "pytorch-lightning_version": "2.6.6"}
        torch.save(state, folder / "best.ckpt")
        made = CLASSES[method](task, backbone | {"weights": str(folder)}, **OPTIONS[method])
        own, body = (getattr(learner, "net", learner).body.state_dict() for learner in (pretrained, made))
        assert all(torch.equal(value, own[name]) for name, value in body.items())
        assert made.hparams["backbone"]["weights"] is None


def test_a_run_pretrained_by_another(tmp_path):
    """Its folder's name has the digest of the other's best state; a test does not read it."""
    chosen = ["data=glyphs", "backbone=fc", "backbone.widths=[8]"]
    first = config(tmp_path, *chosen, "method=protonet", "method.lr=1e-4")
    assert identity(first)["backbone"]["weights"] is None
    train(first)
    pretrained = run_folder(first)
    second = config(tmp_path, *chosen, "method=maml", f"backbone.weights={pretrained}")
    result = train(second)
    assert result["config_diff"]["backbone.weights"].startswith(f"{pretrained.name}-")
    folder = run_folder(second)
    best = pretrained / "best.ckpt"
    best.write_bytes(best.read_bytes() + b"0")
    assert run_folder(second) != folder
    best.unlink()
    assert evaluate(evaluation(folder, tmp_path))["mean"] == result["mean"]
    file = folder / "best.ckpt"
    again = CLASSES["maml"].load_from_checkpoint(file, map_location="cpu", weights_only=True)
    assert again.hparams["backbone"]["weights"] is None
    with pytest.raises(UserError, match=r"cannot be loaded: .*No such file"):
        train(second)
