"""What a GPU would replay: the same operations in every update, traced here without a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from fewshot.methods.base import MetaLearner
from fewshot.methods.losses import with_gradients
from fewshot.methods.protonet import ProtoNet
from fewshot.training.compiled import compiled
from tests.conftest import FC, MAML, episode, make
from tests.helpers import config
from tests.test_learners import close, losses_and_gradient, make_named

CUDA = torch.device("cuda")
KINDS = ["protonet", "maml", "warpmaml", "lstm-set", "lstm-sequence", "oplstm-released"]


def one_hot(y: Tensor, classes: int) -> Tensor:
    """Torch's, which looks at the labels on a CPU and on a GPU does not."""
    return (y.unsqueeze(-1) == torch.arange(classes)).long()


def traced(module: nn.Module, inputs: tuple[Tensor, ...], **_: Any) -> None:
    """As torch.cuda.make_graphed_callables: from now on `module` does what it did for `inputs`, by their
    values' sizes.

    An operation whose result a branch of Python depends on is refused, as a GPU's recording would.
    """
    learned = dict(module.named_parameters())

    def losses_and_gradients(weights: dict[str, Tensor], *parts: Tensor) -> tuple[Any, ...]:
        losses, predictions = functional_call(module, weights, parts)
        return (
            losses,
            predictions,
            torch.autograd.grad(losses.sum(), list(weights.values()), allow_unused=True),
        )

    fresh = {name: p.detach().clone().requires_grad_() for name, p in learned.items()}
    replay = make_fx(losses_and_gradients)(fresh, *inputs)

    def forward(*parts: Tensor) -> tuple[Tensor, Tensor]:
        losses, predictions, grads = replay(learned, *parts)
        used = [(p, g.detach()) for p, g in zip(learned.values(), grads, strict=True) if g is not None]
        return with_gradients(losses, *zip(*used, strict=True)), predictions.detach()

    module.forward = forward


@pytest.mark.parametrize("name", KINDS)
def test_an_update_is_the_same_operations_for_every_episode(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learner = make_named(name, "fc")
    batches = [episode(learner, tasks=2) for _ in range(3)]
    expected = [losses_and_gradient(learner, batch) for batch in batches]
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", traced)
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    with compiled(learner, config(tmp_path), CUDA):
        assert "losses" in vars(learner)
        assert not learner.compiled
        found = [losses_and_gradient(learner, batch) for batch in batches]
    assert learner.captured
    assert "losses" not in vars(learner)
    for here, there in zip(found, expected, strict=True):
        for part, other in zip(here, there, strict=True):
            close(part, other)


def replays(learner: MetaLearner, tmp_path: Path, *settings: str, device: torch.device = CUDA) -> bool:
    with compiled(learner, config(tmp_path, *settings), device):
        return "losses" in vars(learner)


def test_where_a_gpu_replays(tmp_path: Path) -> None:
    """Also a learner whose inner loop would be compiled; not what several processes sum, nor mixed
    precision."""
    clamped = make("maml", "mlp", regression=True, **MAML | {"grad_clip": 0.1})
    assert replays(clamped, tmp_path, "trainer.max_steps=1000000")
    assert not clamped.compiled
    assert not replays(clamped, tmp_path, device=torch.device("cpu"))
    for not_so in ("trainer.compile=false", "trainer.precision=bf16-mixed", "trainer.devices=2"):
        assert not replays(make_named("protonet", "fc"), tmp_path, "method=protonet", "data=omniglot", not_so)
    in_parts = make_named("protonet", "fc")
    in_parts.micro_batch_size = 1
    assert not replays(in_parts, tmp_path)

    class Derived(ProtoNet):  # may count its steps
        pass

    assert not replays(Derived(in_parts.task, FC, lr=1e-3), tmp_path)


def test_what_cannot_be_recorded_gives_one_message_and_trains_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    learner = make_named("protonet", "fc")
    batch = episode(learner)
    expected = losses_and_gradient(learner, batch)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refused)
    with compiled(learner, config(tmp_path), CUDA):
        found = [losses_and_gradient(learner, batch) for _ in range(2)]
    for part, other in zip(found[1], expected, strict=True):
        close(part, other)
    assert not learner.captured
    line = "trains without CUDA graphs, which torch cannot record (RuntimeError: operation not permitted"
    assert capsys.readouterr().err.count(line) == 1
