"""The same tasks and the same predictions on a GPU as on the CPU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fewshot.data.sine import SineSource
from fewshot.runs.build import make_lightning
from tests.conftest import LSTM, MAML, OPLSTM, SAP, TEXT, WARPMAML, episode, make

CASES = {
    "protonet": ("conv4", {"lr": 1e-3}),
    "maml": ("conv4", MAML),
    "lstm": ("conv4", LSTM | {"support": "set", "pool_cell": True, "query_cell": True}),
    "oplstm": ("fc", OPLSTM | TEXT),
    "warpmaml": ("conv4", WARPMAML),
    "sap": ("conv4", SAP),
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", CASES)
def test_predictions_on_a_gpu(method: str) -> None:
    backbone, options = CASES[method]
    learner = make(method, backbone, **options)
    batch = episode(learner)
    expected = learner.predict(batch)
    moved = type(batch)(*(tensor.cuda() for tensor in batch))
    torch.testing.assert_close(learner.cuda().predict(moved).cpu(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tasks_on_a_gpu() -> None:
    source = SineSource(0, 1)
    drawn = source.draw("train", np.arange(3), 5, 5)
    on_gpu = source.episode({name: tensor.cuda() for name, tensor in drawn.items()}, 5)
    for here, there in zip(source.episode(drawn, 5), on_gpu, strict=True):
        torch.testing.assert_close(here, there.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_thirty_two_bits_are_thirty_two_on_a_gpu() -> None:
    """TF32 would be off by 1e-3."""
    make_lightning("protonet", logger=False)
    x, weight = torch.randn(8, 64, 21, 21), torch.randn(64, 64, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1).float()
    torch.testing.assert_close(F.conv2d(x.cuda(), weight.cuda(), padding=1).cpu(), exact, rtol=1e-5, atol=1e-4)
