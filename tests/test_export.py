"""A learner as a program of its own: torch.export for all, ONNX for those without conv gradients."""

import logging
import re

import lightning as L
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fewshot import ProtoNet, Task
from fewshot.config.compose import CONF
from tests.conftest import CLASSES, LSTM, MAML, OPLSTM, SAP, WARPMAML, episode, make

SHORT = {"inner_steps": 2, "eval_inner_steps": 2}
SET = LSTM | {"passes": 2}
SEQUENCE = SET | {"support_mode": "sequence"}
CASES = {
    "protonet": ("protonet", "conv4", {"lr": 1e-3}),
    "lstm-set": ("lstm", "conv4", SET),
    "lstm-sequence": ("lstm", "conv4", SEQUENCE),
    "lstm-raw": ("lstm", "fc", SEQUENCE | {"inputs": "prev_target_err"}),
    "oplstm": ("oplstm", "conv4", OPLSTM | {"passes": 2}),
    "oplstm-linear": ("oplstm", "fc", OPLSTM | {"passes": 2}),
    "maml": ("maml", "conv4", MAML | SHORT),
    "maml-linear": ("maml", "fc", MAML | SHORT),
    "anil": ("maml", "conv4", MAML | SHORT | {"adapt_head_only": True}),
    "warpmaml": ("warpmaml", "conv4", WARPMAML | SHORT),
    "sap": ("sap", "conv4", SAP | {"inner_steps": 1, "eval_inner_steps": 1}),
}


@pytest.fixture(autouse=True)
def unlogged():
    """Torch's tracing logs every tensor at level DEBUG, which pytest would format and keep."""
    logging.disable(logging.DEBUG)
    yield
    logging.disable(logging.NOTSET)


def case(name):
    """A learner, inputs to export it with, others of the same shapes, and its predictions for the others."""
    method, backbone, options = CASES[name]
    learner = make(method, backbone, **options).float().eval()
    episodes = [episode(learner, 2), episode(learner, 2)]
    first, other = ((e.support_x.float(), e.support_y, e.query_x.float()) for e in episodes)
    with torch.no_grad():
        return learner, first, other, learner(*other)


def quick_or_slow(name):
    return pytest.param(name, marks=pytest.mark.slow if name in ("maml", "warpmaml", "sap") else ())


@pytest.mark.parametrize("name", [quick_or_slow(name) for name in CASES])
def test_torch_export_gives_the_same_predictions(name):
    learner, first, other, wanted = case(name)
    with torch.no_grad():
        graph = make_fx(learner)(*first) if hasattr(learner, "inner_step") else learner
        program = torch.export.export(graph, first)
        assert torch.equal(program.module()(*other), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["protonet", "lstm-set", "lstm-sequence", "oplstm-linear"])
def test_onnx_gives_the_same_predictions(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    learner, first, other, wanted = case(name)
    torch.onnx.export(learner, first, tmp_path / "learner.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "learner.onnx")
    names = ("support_x", "support_y", "query_x")
    [found] = session.run(None, {key: x.numpy() for key, x in zip(names, other, strict=True)})
    assert (torch.from_numpy(found) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def keep(learner, folder):
    """Its checkpoint, as a run has it, in a folder."""
    folder.mkdir()
    state = {"state_dict": learner.state_dict(), "hyper_parameters": dict(learner.hparams)}
    torch.save(state | {"pytorch-lightning_version": L.__version__}, folder / "best.ckpt")
    return learner.eval()


def test_the_export_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, backbone = Task((1, 28, 28), 5, False), {"layer": "linear", "widths": [16]}
    protonet = keep(ProtoNet(task, backbone, lr=1e-3), tmp_path / "RUN")
    maml = keep(CLASSES["maml"](task, backbone, **MAML | SHORT), tmp_path / "MAML-RUN")
    blocks = re.findall(r"```python\n(.*?)```", (CONF.parent / "docs" / "export.md").read_text(), re.S)
    assert len(blocks) == 5
    names = {}
    for block in blocks[:3]:
        exec(block, names)
    with torch.no_grad():
        own = protonet(*names["inputs"])
        assert torch.equal(names["predictions"], own)
        assert torch.equal(names["program"].module()(*names["inputs"]), maml(*names["inputs"]))
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    for block in blocks[3:]:
        exec(block, names)
    assert (torch.from_numpy(names["predictions"]) - own).abs().max() <= 1e-5 * own.abs().max()
