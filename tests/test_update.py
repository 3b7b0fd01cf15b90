"""A training update as one function takes Lightning's steps: compiled, captured, or as it is."""

from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch._inductor.config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewshot.config.run_id import run_folder
from fewshot.episodes import Episode
from fewshot.methods import PlainLSTM, ProtoNet
from fewshot.training import update as updates
from fewshot.training.run import run as train
from fewshot.training.update import MANY_UPDATES, Captured, WholeUpdate, kind_of_update, update_function
from tests.conftest import FC, MAML, episode, make
from tests.helpers import check_same, config, kill_at
from tests.test_learners import CONV_ONLY, close, make_named

TRACED = partial(torch.compile, fullgraph=True, dynamic=False, backend="aot_eager")  # all but the C++
CLIPPED = {"grad_clip": 0.1}
PURE = ["protonet", "lstm-set", "lstm-sequence", "lstm-offset", "oplstm-released", "oplstm-text", "maml"]
PURE += ["sap", "ridge", "deltanet", "metasgd", "reptile", "oplstm-all", "warp-oplstm-all"]
BACKBONES = [(name, backbone) for name in PURE for backbone in ("mlp", "fc", "conv4")]
BACKBONES = [(n, b) for n, b in BACKBONES if n != "lstm-sequence" and (n not in CONV_ONLY or b == "conv4")]
OPTIONS = [{}, CLIPPED, CLIPPED | {"grad_clip_each": True}, {"first_order": True}, {"adapt_head_only": True}]


def usual(name):
    return "conv4" if name in CONV_ONLY else "fc"


@pytest.fixture(autouse=True)
def _no_leftovers():
    yield
    torch._dynamo.reset()


def step_of_lightning(learner, optimizer, batch):
    losses, predictions = learner.losses(batch)
    optimizer.zero_grad()
    losses.sum().backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None])
    learner.on_before_optimizer_step(optimizer)
    optimizer.step()
    return {"loss": losses.sum(), "predictions": predictions, "gradient_norm": norm}


def check_same_steps(learner, change, updates=3):
    """That updates, changed by `change`, have the losses, predictions and gradients that Lightning's have.

    The gradients are compared in Adam's state. Torch compiles Adam with 32 bits for the number of steps, so
    weights of size 1, moved by .001, differ more; they are made equal after each update.
    """
    other = deepcopy(learner)
    ours, theirs = learner.configure_optimizers(), other.configure_optimizers()
    update = change(update_function(learner, ours))
    for _ in range(updates):
        batch = Episode(*(x.to(learner.device) for x in episode(learner, tasks=2)))
        with torch.no_grad(), torch._dynamo.config.patch(allow_rnn=True):
            found = update(*batch)
        close(found, step_of_lightning(other, theirs, batch))
        for p, q in zip(learner.parameters(), other.parameters(), strict=True):
            state = theirs.state.get(q) or {name: torch.zeros_like(q) for name in ("exp_avg", "exp_avg_sq")}
            for name in ("exp_avg", "exp_avg_sq"):
                close(ours.state[p][name], state[name])
        close(dict(learner.state_dict()), dict(other.state_dict()), rtol=0, atol=1e-7)
        learner.load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", PURE)
def test_an_update_takes_lightnings_step(name):
    check_same_steps(make_named(name, usual(name)), lambda update: update)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), BACKBONES)  # without torch's own LSTM
def test_a_compiled_update_takes_lightnings_step(name, backbone):
    check_same_steps(make_named(name, backbone), TRACED)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backbone", ["mlp", "fc", "conv4"])
def test_a_compiled_inner_loop_takes_lightnings_step(backbone, options):
    """Second order, though torch compiles no gradient of a gradient that autograd takes."""
    check_same_steps(make("maml", backbone, regression=backbone == "mlp", **MAML | options), TRACED)


class Graph(TorchDispatchMode):
    """A CUDA graph on the CPU: repeats the operations that it has seen, on the same memory."""

    def __init__(self):
        super().__init__()
        self.operations, self.executed = [], False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise torch.AcceleratorError("operation not permitted when stream is capturing")
        result = function(*args, **kwargs or {})
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        if self.executed:  # CUDA would only have recorded it
            for function, args, kwargs, result in self.operations:
                again = function(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if new is not None:
                        old.detach().copy_(new)
        self.executed = True


def one_hot(y, classes):
    """Torch's, which looks at the labels on a CPU and on a GPU does not."""
    return (y.unsqueeze(-1) == torch.arange(classes)).long()


@pytest.fixture
def cuda(monkeypatch):
    """What of torch.cuda captures an update, on the CPU."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: SimpleNamespace(wait_stream=lambda _: None))
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", PURE)
def test_a_captured_update_takes_lightnings_step(name):
    """From the fourth update on the operations of the fourth are replayed."""
    check_same_steps(make_named(name, usual(name)), Captured, updates=6)


class Derived(ProtoNet):  # may count its steps
    pass


class SGD(ProtoNet):
    pure = True

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("choice", "settings", "kind"),
    [
        ("auto", {}, "compiled"),
        ("auto", {"max_steps": MANY_UPDATES - 1}, "eager"),
        (True, {"max_steps": 1}, "compiled"),
        (False, {}, "eager"),
        ("auto", {"device": "cuda", "max_steps": 1}, "captured"),
        (True, {"device": "cuda"}, "compiled"),
        (True, {"world_size": 2}, "eager"),
        (True, {"gradient_clip_val": 1.0}, "eager"),
        (True, {"accumulate_grad_batches": 2}, "eager"),
        ("auto", {"device": "cuda", "precision": "bf16-mixed"}, "eager"),
    ],
)
def test_where_an_update_is_one_function(choice, settings, kind):
    usual = {"max_steps": MANY_UPDATES, "precision": "32-true", "world_size": 1, "gradient_clip_val": None}
    usual |= {"accumulate_grad_batches": 1, "device": "cpu"} | settings
    trainer = SimpleNamespace(**usual, strategy=SimpleNamespace(root_device=torch.device(usual["device"])))
    learner = make_named("protonet", "fc")
    assert kind_of_update(choice, learner, trainer) == kind
    learner.micro_batch_size = 1
    others = [learner, Derived(learner.task, FC, lr=1e-3), SGD(learner.task, FC, lr=1e-3)]
    assert {kind_of_update(choice, other, trainer) for other in others} == {"eager"}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("no_compiler", [True, False])
def test_what_cannot_be_compiled_is_trained_eagerly(no_compiler, monkeypatch, tmp_path, capsys):
    settings = ["method.hidden=[4]", "method.passes=1"]
    expected = train(config(tmp_path, *settings, "trainer.compile=false"))
    losses = PlainLSTM.losses

    def unclear(self, episode):
        torch._dynamo.graph_break()
        return losses(self, episode)

    if not no_compiler:
        monkeypatch.setattr(PlainLSTM, "losses", unclear)
    with torch._inductor.config.patch({"cpp.cxx": ("/nowhere",)} if no_compiler else {}):
        result = train(config(tmp_path, *settings, "overwrite=true", "trainer.compile=true"))
    assert (result["update"], result["mean"]) == ("eager", expected["mean"])
    assert capsys.readouterr().err.count("trains eagerly: it cannot be compiled: ") == 1


@pytest.mark.usefixtures("undrawn")
def test_many_updates_in_a_batch_change_no_number(monkeypatch, tmp_path):
    """Short updates come up to five at a time; also a run that is killed between ends as one by one."""
    monkeypatch.setattr(updates, "faster", lambda update, *_: torch.no_grad()(update))
    original, sizes = WholeUpdate.run, []

    def counting(self, trainer, optimizer, batch_idx, kwargs):
        sizes.append(len(kwargs["batch"]) if isinstance(kwargs["batch"], list) else 1)
        return original(self, trainer, optimizer, batch_idx, kwargs)

    monkeypatch.setattr(WholeUpdate, "run", counting)
    settings = ["trainer.compile=true", "trainer.save_every_n_steps=5"]
    one_by_one, killed = (config(tmp_path, *settings, outputs=name) for name in ("one", "killed"))
    monkeypatch.setattr(updates, "SHORT_UPDATE", 0)
    train(one_by_one)
    assert sizes == [1] * 40
    monkeypatch.setattr(updates, "SHORT_UPDATE", 60)
    kill_at(20, killed, monkeypatch)
    assert sizes[40:] == [1] * 5 + [5] * 3
    check_same(killed, one_by_one)
    assert sizes[48:] == [1] * 5 + [5] * 4
    last, other = (torch.load(run_folder(c) / "last.ckpt", weights_only=True) for c in (killed, one_by_one))
    assert last["loops"] == other["loops"]
    assert (last["global_step"], last["EpisodicDataModule"]) == (40, other["EpisodicDataModule"])


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_compiled_run_resumes_an_eager_one(monkeypatch, tmp_path):
    """Also the other way round; nothing else of its folder, and the numbers up to rounding."""
    expected = train(config(tmp_path, outputs="eager"))
    for first, then in (("true", "false"), ("false", "true")):
        outputs = f"{first}-{then}"
        kill_at(13, config(tmp_path, f"trainer.compile={first}", outputs=outputs), monkeypatch)
        result = train(config(tmp_path, f"trainer.compile={then}", outputs=outputs))
        assert result["update"] == ("compiled" if then == "true" else "eager")
        assert result["mean"] == pytest.approx(expected["mean"], rel=1e-3)
