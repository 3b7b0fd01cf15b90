"""What a GPU would replay: the same operations in every update, traced here without a GPU."""

import pytest
import torch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from fewshot.methods.losses import with_gradients
from fewshot.methods.protonet import ProtoNet
from fewshot.training.compiled import to_compile
from tests.conftest import FC, MAML, make
from tests.helpers import config
from tests.test_compiled import CPU, CUDA, check_same_gradients
from tests.test_learners import make_named


def one_hot(y, classes):
    """Torch's, which looks at the labels on a CPU and on a GPU does not."""
    return (y.unsqueeze(-1) == torch.arange(classes)).long()


def traced(module, inputs, **_):
    """As torch.cuda.make_graphed_callables: from now on `module` does what it did for `inputs`.

    An operation whose result a branch of Python depends on is rejected, as a GPU's recording would.
    """
    learned = dict(module.named_parameters())

    def losses_and_gradients(weights, *parts):
        losses, predictions = functional_call(module, weights, parts)
        grads = torch.autograd.grad(losses.sum(), list(weights.values()), allow_unused=True)
        return losses, predictions, grads

    fresh = {name: p.detach().clone().requires_grad_() for name, p in learned.items()}
    replay = make_fx(losses_and_gradients)(fresh, *inputs)

    def forward(*parts):
        losses, predictions, grads = replay(learned, *parts)
        used = [(p, g.detach()) for p, g in zip(learned.values(), grads, strict=True) if g is not None]
        return with_gradients(losses, *zip(*used, strict=True)), predictions.detach()

    module.forward = forward


@pytest.mark.parametrize(
    "name", ["protonet", "maml", "warpmaml", "lstm-set", "lstm-sequence", "oplstm-released"]
)
def test_an_update_is_the_same_operations_for_every_episode(name, monkeypatch, tmp_path):
    learner = make_named(name, "fc")
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", traced)
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    check_same_gradients(learner, config(tmp_path), CUDA)
    assert (learner.compiled, learner.captured) == (False, True)


def test_where_a_gpu_replays(tmp_path):
    """Also a learner whose inner loop would be compiled; not what several processes sum, nor mixed
    precision."""
    cfg = config(tmp_path, "trainer.max_steps=1000000")
    clamped = make("maml", "mlp", regression=True, **MAML | {"grad_clip": 0.1})
    assert to_compile(clamped, cfg, CUDA) == (None, True)
    assert to_compile(clamped, cfg, CPU) == (clamped.repeated, False)
    learner = make_named("protonet", "fc")
    assert to_compile(learner, cfg, CUDA) == (None, True)
    for not_so in ("trainer.compile=false", "trainer.precision=bf16-mixed", "trainer.devices=2"):
        images = ["method=protonet", "data=omniglot", not_so]
        assert to_compile(learner, config(tmp_path, *images), CUDA) == (None, False)
    learner.micro_batch_size = 1
    assert to_compile(learner, cfg, CUDA) == (None, False)

    class Derived(ProtoNet):  # may count its steps
        pass

    assert to_compile(Derived(learner.task, FC, lr=1e-3), cfg, CUDA) == (None, False)


def test_what_cannot_be_captured_gives_one_message_and_trains_as_before(monkeypatch, tmp_path, capsys):
    def rejected(*_, **__):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    learner = make_named("protonet", "fc")
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", rejected)
    check_same_gradients(learner, config(tmp_path), CUDA)
    assert not learner.captured
    line = "trains without CUDA graphs: torch cannot capture (RuntimeError: operation not permitted"
    assert capsys.readouterr().err.count(line) == 1
