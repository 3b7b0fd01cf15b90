"""The same tasks and the same predictions on a GPU as on the CPU."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from fewshot.episodes import Episode
from fewshot.errors import OutOfTime
from fewshot.training.build import make_trainer
from fewshot.training.run import run as train
from fewshot.training.update import faster
from tests.conftest import OPTIONS, episode, make
from tests.helpers import config
from tests.test_learners import make_named
from tests.test_update import PURE, check_same_steps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHORT = ["data=glyphs", "trainer.accelerator=gpu", "trainer.max_steps=40", "trainer.val_check_interval=20"]
SHORT += ["trainer.num_val_tasks=20", "trainer.num_test_tasks=20"]


@pytest.mark.parametrize("method", OPTIONS)
def test_predictions_on_a_gpu(method):
    learner = make(method, "conv4", **OPTIONS[method])
    batch = episode(learner)
    expected = learner.predict(batch)
    moved = Episode(*(tensor.cuda() for tensor in batch))
    torch.testing.assert_close(learner.cuda().predict(moved).cpu(), expected, rtol=1e-7, atol=1e-9)


def test_thirty_two_bits_are_thirty_two_on_a_gpu(tmp_path):
    """TF32 would be off by 1e-3."""
    make_trainer(config(tmp_path), tmp_path)
    x, weight = torch.randn(8, 64, 21, 21), torch.randn(64, 64, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1).float()
    found = F.conv2d(x.cuda(), weight.cuda(), padding=1).cpu()
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["compiled", "captured"])
@pytest.mark.parametrize("backbone", ["mlp", "fc", "conv4"])
@pytest.mark.parametrize("name", PURE)
def test_an_update_takes_lightnings_step(name, backbone, kind):
    learner = make_named(name, backbone).cuda()
    check_same_steps(learner, partial(faster, kind=kind, device=learner.device), updates=6)


@pytest.mark.parametrize(("choice", "precision"), [("true", "tf32"), ("auto", "32-true")])
def test_a_run_on_a_gpu_in_two_sessions(choice, precision, tmp_path):
    settings = ["method=oplstm", *SHORT, "trainer.max_steps=60"]
    settings += [f"trainer.compile={choice}", f"trainer.precision={precision}"]
    with pytest.raises(OutOfTime):
        train(config(tmp_path, *settings, "trainer.max_time=00:00:00:01", "trainer.save_every_n_steps=1"))
    result = train(config(tmp_path, *settings))
    assert result["update"] == ("compiled" if choice == "true" else "captured")
    assert result["tf32"] == (precision == "tf32")


@pytest.mark.parametrize("method", ["maml", "lstm"])
def test_a_run_that_replays_is_the_run_that_does_not(method, tmp_path):
    settings = [f"method={method}", *SHORT]
    replayed = train(config(tmp_path / "replayed", *settings))
    launched = train(config(tmp_path / "launched", *settings, "trainer.compile=false"))
    assert (replayed["mean"], replayed["best_validation"]) == (launched["mean"], launched["best_validation"])
