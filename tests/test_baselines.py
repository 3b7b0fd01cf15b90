"""The floors beside every score, against plain loops."""

import numpy as np
import pytest
import torch

from fewshot.baselines import baseline_scores
from fewshot.data.sine import SineSource
from fewshot.episodes import Episode, Task
from fewshot.results.record import score_line
from tests.conftest import episode, make
from tests.test_results import RESULT


def test_the_nearest_neighbour_of_every_query() -> None:
    batch = episode(make("protonet", "conv4", lr=1e-3), tasks=3, shots=2, queries=4)
    expected = []
    for b in range(3):
        right = 0
        for x, label in zip(batch.query_x[b], batch.query_y[b], strict=True):
            distances = [float(((x - other) ** 2).sum()) for other in batch.support_x[b]]
            right += int(batch.support_y[b][int(np.argmin(distances))] == label)
        expected.append(100 * right / len(batch.query_y[b]))
    assert baseline_scores(batch, Task((2, 8, 8), 3, False)).tolist() == pytest.approx(expected)


def test_a_query_that_is_a_support_example_is_right() -> None:
    batch = episode(make("protonet", "conv4", lr=1e-3))
    same = Episode(batch.support_x, batch.support_y, batch.support_x, batch.support_y, batch.tasks)
    assert baseline_scores(same, Task((2, 8, 8), 3, False)).tolist() == [100] * 3


def test_the_mean_of_the_support_set() -> None:
    source = SineSource(0)
    batch = source.episode(source.draw("test", np.arange(4), 3, 5), 3)
    expected = [float(((batch.query_y[b] - sum(batch.support_y[b]) / 3) ** 2).mean()) for b in range(4)]
    assert torch.allclose(baseline_scores(batch, source.task), torch.tensor(expected))


def test_floors_stand_beside_the_score() -> None:
    line = score_line(RESULT | {"baselines": {"nearest_neighbour": 52.3, "chance": 20.0}})
    assert "; nearest neighbour 52.30%; chance 20.00%; paper, mean of 3 runs: 84.27%)" in line
