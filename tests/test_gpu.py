"""The same tasks and the same predictions on a GPU as on the CPU."""

import numpy as np
import pytest
import torch

from fewshot.data.sine import SineSource
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
