"""Compiled training: the same gradients; none where it does not pay or is not possible."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import Unsupported

from fewshot.backbones import task_weight
from fewshot.errors import UserError
from fewshot.methods.oplstm import OPLSTM as Learner
from fewshot.training import compiled as module
from fewshot.training.compiled import LONG, compiled
from fewshot.training.run import run as train
from tests.conftest import MAML, SAP, episode, make
from tests.helpers import config
from tests.test_learners import close, gradients, losses_and_gradient, make_named

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

CPU = torch.device("cpu")
TRACED = partial(torch.compile, backend="aot_eager")  # all of the compiler but the C++
OPLSTM = ["method=oplstm", "method.meta_batch_size=1"]


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("oplstm-text", "fc"),
        ("oplstm-released", "mlp"),
        ("oplstm-text", "conv4"),
        ("lstm-set", "mlp"),
        ("lstm-set-released", "fc"),
    ],
)
def test_compiled_gradients_are_those_of_the_learner(
    name: str, backbone: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learner = make_named(name, backbone)
    batch = episode(learner, tasks=2)
    expected = gradients(learner, batch)
    monkeypatch.setattr(torch, "compile", TRACED)
    with compiled(learner, config(tmp_path, *OPLSTM, "trainer.compile=true"), CPU):
        assert learner.compiled
        found = gradients(learner, batch)
    assert str(learner.repeated) not in vars(learner)
    for parameter in expected:
        close(found[parameter], expected[parameter])


@pytest.mark.parametrize(("name", "backbone"), [("oplstm-released", "conv4"), ("protonet", "conv4")])
def test_a_gpu_would_replay_the_learners_gradients(
    name: str, backbone: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learner = make_named(name, backbone)
    batch = episode(learner, tasks=2)
    expected = losses_and_gradient(learner, batch)
    monkeypatch.setattr(module, "no_compiler", lambda _: "")
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: TRACED(function, fullgraph=True, dynamic=False)
    )
    with compiled(learner, config(tmp_path, "trainer.compile=true"), torch.device("cuda")):
        assert "losses" in vars(learner)
        for found, there in zip(losses_and_gradient(learner, batch), expected, strict=True):
            close(found, there)
    assert "losses" not in vars(learner)


@pytest.mark.parametrize("products", [True, False])
def test_the_first_pass_is_the_code_of_the_others(
    products: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where outer products would be kept as such, more in each pass: torch compiles eight kinds at
    most."""
    monkeypatch.setattr(task_weight, "fewer", lambda *_: products)
    pieces = []
    counting = partial(torch.compile, backend=lambda graph, _: pieces.append(graph) or graph.forward)
    learner = make_named("oplstm-released", "mlp")
    monkeypatch.setattr(torch, "compile", counting)
    with compiled(learner, config(tmp_path, *OPLSTM, "trainer.compile=true"), CPU):
        pieces.clear()  # the trial's
        gradients(learner, episode(learner, tasks=2))
    assert len(pieces) == 1


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("maml", MAML | {"grad_clip": 0.1}),
        ("maml", MAML | {"grad_clip": 0.1, "grad_clip_each": True}),
        ("maml", MAML | {"grad_clip": 0.1, "first_order": True}),
        ("maml", MAML | {"grad_clip": 0.1, "adapt_head_only": True}),
        ("sap", SAP | {"grad_clip": 0.1}),
    ],
)
def test_a_compiled_inner_loop_has_the_learners_gradients(
    method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Second order, though torch cannot compile a gradient of a gradient that autograd takes."""
    learner = make(method, "mlp", regression=method == "maml", **options)
    batch = episode(learner, tasks=3)
    expected = gradients(learner, batch)
    monkeypatch.setattr(torch, "compile", TRACED)
    with compiled(learner, config(tmp_path, "method=maml", "trainer.compile=true"), CPU):
        assert learner.compiled
        found = gradients(learner, batch)
    for parameter in expected:
        close(found[parameter], expected[parameter])


def test_validation_is_not_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def counting(function: Any, **_: Any) -> Any:
        return lambda *args: calls.append(1) or function(*args)

    monkeypatch.setattr(torch, "compile", counting)
    result = train(config(tmp_path, *OPLSTM, "trainer.compile=true", "method.passes=3"))
    assert result["compiled"] is True
    assert len(calls) == 1 + 40 * 3  # the trial, and a call a pass of training


def test_a_short_run_does_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "no_compiler", lambda _: "")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    learner = make_named("oplstm-text", "mlp")
    passes = learner.passes  # type: ignore[union-attr]

    def on(*settings: str) -> bool:
        with compiled(learner, config(tmp_path, *OPLSTM, *settings), CPU):
            return learner.compiled

    enough = -(-LONG // passes)  # type: ignore[operator]
    assert not on()
    assert on(f"trainer.max_steps={enough}")
    assert not on(f"trainer.max_steps={enough - 1}")
    assert not on(f"trainer.max_steps={enough}", "trainer.compile=false")
    assert on("trainer.compile=true")


def test_no_compiler_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no g++\nanywhere")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: failing)
    monkeypatch.setattr(module, "LONG", 1)
    assert train(config(tmp_path, *OPLSTM))["compiled"] is False
    assert "trains without compiling" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"torch cannot compile here.*RuntimeError: no g\+\+ anywhere"):
        train(config(tmp_path, *OPLSTM, "trainer.compile=true", "seed=1"))


def test_what_cannot_be_compiled_is_trained_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LONG", 1)
    monkeypatch.setattr(torch, "compile", TRACED)
    expected = train(config(tmp_path, *OPLSTM, "trainer.compile=false"))
    one_pass = Learner.one_pass

    def unclear(self: Learner, *args: Any) -> Any:
        torch._dynamo.graph_break()
        return one_pass(self, *args)

    monkeypatch.setattr(Learner, "one_pass", unclear)
    result = train(config(tmp_path, *OPLSTM, "overwrite=true"))
    assert (result["compiled"], result["mean"]) == (False, expected["mean"])
    assert capsys.readouterr().err.count("trains one_pass without compiling") == 1
    with pytest.raises(Unsupported):
        train(config(tmp_path, *OPLSTM, "overwrite=true", "trainer.compile=true"))


@pytest.mark.parametrize(
    ("name", "backbone"), [("maml", "conv4"), ("maml", "fc"), ("protonet", "fc"), ("lstm-sequence", "mlp")]
)
def test_what_consists_of_few_large_operations_is_not_compiled(
    name: str, backbone: str, tmp_path: Path
) -> None:
    learner = make_named(name, backbone)
    cfg = config(tmp_path, "trainer.max_steps=1000000")
    with compiled(learner, cfg, CPU):
        assert not learner.compiled
    cfg.trainer.compile = True
    with pytest.raises(UserError, match=r"trainer.compile=true: method=.* has no part worth compiling"):
        module.wanted(learner, cfg, CPU)
