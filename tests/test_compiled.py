"""Compiled training: the same gradients; none where it does not pay or is not possible."""

from functools import partial

import pytest
import torch

from fewshot.backbones import task_weight
from fewshot.errors import UserError
from fewshot.methods.oplstm import OPLSTM as Learner
from fewshot.training import compiled as module
from fewshot.training.compiled import LONG, compiled, to_compile
from fewshot.training.run import run as train
from tests.conftest import MAML, SAP, episode, make
from tests.helpers import config
from tests.test_learners import close, losses_and_gradient, make_named

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TRACED = partial(torch.compile, backend="aot_eager")  # all of the compiler but the C++
OPLSTM = ["method=oplstm", "method.meta_batch_size=1"]


@pytest.fixture(autouse=True)
def _no_leftovers():
    yield
    torch._dynamo.reset()


def traced_on_gpu(function, **_):
    return TRACED(function, fullgraph=True, dynamic=False)


def check_same_gradients(learner, cfg, device):
    """That three updates have the losses, predictions and gradients that they have as they are."""
    batches = [episode(learner, tasks=2) for _ in range(3)]
    expected = [losses_and_gradient(learner, batch) for batch in batches]
    with compiled(learner, cfg, device):
        assert vars(learner).keys() & {"losses", learner.repeated}
        found = [losses_and_gradient(learner, batch) for batch in batches]
    assert not vars(learner).keys() & {"losses", learner.repeated}
    for here, there in zip(found, expected, strict=True):
        for part, other in zip(here, there, strict=True):
            close(part, other)


@pytest.mark.parametrize(
    ("name", "backbone", "device"),
    [
        ("oplstm-text", "fc", CPU),
        ("oplstm-released", "mlp", CPU),
        ("oplstm-text", "conv4", CPU),
        ("lstm-set", "mlp", CPU),
        ("lstm-set-released", "fc", CPU),
        ("oplstm-released", "conv4", CUDA),
        ("protonet", "conv4", CUDA),
    ],
)
def test_compiled_gradients_are_those_of_the_learner(name, backbone, device, monkeypatch, tmp_path):
    learner = make_named(name, backbone)
    monkeypatch.setattr(torch, "compile", TRACED if device == CPU else traced_on_gpu)
    check_same_gradients(learner, config(tmp_path, *OPLSTM, "trainer.compile=true"), device)
    assert learner.compiled


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("maml", {}),
        ("maml", {"grad_clip_each": True}),
        ("maml", {"first_order": True}),
        ("maml", {"adapt_head_only": True}),
        ("sap", {}),
    ],
)
def test_a_compiled_inner_loop_has_the_learners_gradients(method, options, monkeypatch, tmp_path):
    """Second order, though torch cannot compile a gradient of a gradient that autograd takes."""
    options = (MAML if method == "maml" else SAP) | {"grad_clip": 0.1} | options
    learner = make(method, "mlp", regression=method == "maml", **options)
    monkeypatch.setattr(torch, "compile", TRACED)
    check_same_gradients(learner, config(tmp_path, "method=maml", "trainer.compile=true"), CPU)
    assert learner.compiled


@pytest.mark.parametrize("products", [True, False])
def test_the_first_pass_is_the_code_of_the_others(products, monkeypatch, tmp_path):
    """Also where outer products would be kept as such, more in each pass: torch compiles eight kinds at
    most."""
    monkeypatch.setattr(task_weight, "fewer", lambda *_: products)
    pieces = []
    counting = partial(torch.compile, backend=lambda graph, _: pieces.append(graph) or graph.forward)
    learner = make_named("oplstm-released", "mlp")
    monkeypatch.setattr(torch, "compile", counting)
    with compiled(learner, config(tmp_path, *OPLSTM, "trainer.compile=true"), CPU):
        losses_and_gradient(learner, episode(learner, tasks=2))
    assert len(pieces) == 1


def test_validation_is_not_compiled(monkeypatch, tmp_path):
    calls = []
    counting = lambda function, **_: lambda *args: calls.append(1) or function(*args)  # noqa: E731
    monkeypatch.setattr(torch, "compile", counting)
    result = train(config(tmp_path, *OPLSTM, "trainer.compile=true", "method.passes=3"))
    assert result["compiled"] is True
    assert len(calls) == 40 * 3  # a call a pass of training


def test_a_short_run_does_without(tmp_path):
    learner = make_named("oplstm-text", "mlp")
    enough = -(-LONG // learner.passes)
    for steps, choice, compiles in (
        *((enough, "auto", True), (enough - 1, "auto", False)),
        *((enough, "false", False), (10, "true", True)),
    ):
        cfg = config(tmp_path, *OPLSTM, f"trainer.max_steps={steps}", f"trainer.compile={choice}")
        assert to_compile(learner, cfg, CPU) == (learner.repeated if compiles else None, False)


@pytest.mark.parametrize("no_compiler", [True, False])
def test_what_cannot_be_compiled_is_trained_as_it_is(no_compiler, monkeypatch, tmp_path, capsys):
    expected = train(config(tmp_path, *OPLSTM, "trainer.compile=false"))
    monkeypatch.setattr(module, "LONG", 1)
    one_pass = Learner.one_pass

    def unclear(self, *args):
        torch._dynamo.graph_break()
        return one_pass(self, *args)

    if no_compiler:
        monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere",))
    else:
        monkeypatch.setattr(torch, "compile", TRACED)
        monkeypatch.setattr(Learner, "one_pass", unclear)
    result = train(config(tmp_path, *OPLSTM, "overwrite=true"))
    assert (result["compiled"], result["mean"]) == (False, expected["mean"])
    assert capsys.readouterr().err.count("trains without compiling: torch cannot compile one_pass here") == 1
    with pytest.raises(UserError, match=r"trainer.compile=true: torch cannot compile one_pass here"):
        train(config(tmp_path, *OPLSTM, "overwrite=true", "trainer.compile=true"))


@pytest.mark.parametrize(
    ("name", "backbone"), [("maml", "conv4"), ("protonet", "fc"), ("lstm-sequence", "mlp")]
)
def test_few_large_operations_are_not_compiled(name, backbone, tmp_path):
    learner, cfg = make_named(name, backbone), config(tmp_path, "trainer.max_steps=1000000")
    assert to_compile(learner, cfg, CPU) == (None, False)
    cfg.trainer.compile = True
    with pytest.raises(UserError, match=r"trainer.compile=true: method=.* has no part worth compiling"):
        to_compile(learner, cfg, CPU)
