"""What every learner shares: training, validation and test steps, losses, scores and baselines."""

import numpy as np
import pytest
import torch

from fewshot.data.sine import SineSource
from fewshot.episodes import Episode, Task
from fewshot.methods.losses import accumulated_losses, baseline_scores
from tests.conftest import episode, make
from tests.test_learners import EVERY, SET, close, losses_and_gradient, make_named


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("regression", [False, True])
def test_steps_sum_losses_and_score_each_task(regression, tasks, monkeypatch):
    """Adam sees the sum over the meta-batch, the log the mean, and the test one score and number a task."""
    learner = make("lstm", "mlp", None, regression, **SET)
    batch = episode(learner, tasks)._replace(tasks=torch.arange(7, 7 + tasks))
    logged = {}
    monkeypatch.setattr(learner, "log", lambda key, value, **_: logged.update({key: float(value)}))
    predictions = learner.predict(batch).detach()
    losses, scores = [], []
    for prediction, target in zip(predictions, batch.query_y, strict=True):
        if regression:
            losses.append(float(((prediction - target) ** 2).mean()))
            scores.append(losses[-1])
        else:
            rows = list(zip(prediction, target.tolist(), strict=True))
            losses.append(-np.mean([row.log_softmax(0)[label].item() for row, label in rows]))
            scores.append(100 * np.mean([row.argmax().item() == label for row, label in rows]))
    step = learner.training_step(batch, 0)
    assert step["loss"].item() == pytest.approx(sum(losses), rel=1e-12)
    close(step["predictions"], predictions)
    assert not step["predictions"].requires_grad
    with torch.no_grad():
        learner.on_validation_epoch_start()
        learner.validation_step(batch, 0)
        learner.on_validation_epoch_end()
        learner.on_test_start()
        learner.test_step(batch, 0)
        learner.on_test_epoch_end()
    metric = "mse" if regression else "accuracy"
    assert logged["train/loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert logged["val/loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert logged[f"val/{metric}"] == logged[f"test/{metric}"] == pytest.approx(np.mean(scores), rel=1e-6)
    assert learner.test_scores.compute().view(-1).tolist() == pytest.approx(scores, rel=1e-6)
    assert learner.test_tasks.compute().view(-1).tolist() == [7, 8, 9][:tasks]


def test_optimizer_is_plain_adam_over_everything():
    """Protocol: Adam, default betas, no weight decay, all parameters, the stated lr."""
    learner = make_named("oplstm-released", "fc")
    optimizer = learner.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    assert {id(p) for p in group["params"]} == {id(p) for p in learner.parameters()}


@EVERY
def test_gradient_accumulation_has_the_same_gradients(name, backbone):
    learner = make_named(name, backbone)
    batch = episode(learner, tasks=3)
    expected = losses_and_gradient(learner, batch)
    learner.zero_grad()
    losses, predictions = accumulated_losses(learner, batch, 2)
    losses.sum().backward()
    found = losses, predictions, *(p.grad for p in learner.parameters())
    for here, there in zip(found, expected, strict=True):
        close(here, there, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["protonet", "maml", "warpmaml", "lstm-set", "oplstm-text"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_prediction_that_is_not_finite_gives_nan(name, value, monkeypatch):
    learner = make_named(name, "fc")
    batch = episode(learner, tasks=2)
    place = tuple(torch.tensor([i]) for i in (1, 2, 0))

    def spoil(predictions):
        return predictions.index_put(place, predictions.new_tensor(value))

    scores = learner.scores(spoil(learner.predict(batch).detach()), batch.query_y)
    assert scores.isfinite().tolist() == [True, False]
    method = "predict_queries" if name == "warpmaml" else "predict"  # Warp-MAML has `losses` of its own
    original, task_losses = getattr(learner, method), learner.task_losses
    monkeypatch.setattr(learner, method, lambda *args: spoil(original(*args)))
    monkeypatch.setattr(learner, "task_losses", lambda p, y: task_losses(p.nan_to_num(), y))
    losses, _ = learner.losses(batch)
    assert torch.isnan(losses[1])
    assert torch.isfinite(losses[0]) or name == "warpmaml"


def test_the_nearest_neighbour_of_every_query():
    batch = episode(make("protonet", "conv4", lr=1e-3), tasks=3, shots=2, queries=4)
    expected = []
    for b in range(3):
        right = 0
        for x, label in zip(batch.query_x[b], batch.query_y[b], strict=True):
            distances = [float(((x - other) ** 2).sum()) for other in batch.support_x[b]]
            right += int(batch.support_y[b][int(np.argmin(distances))] == label)
        expected.append(100 * right / len(batch.query_y[b]))
    task = Task((2, 8, 8), 3, False)
    assert baseline_scores(batch, task).tolist() == pytest.approx(expected)
    itself = Episode(batch.support_x, batch.support_y, batch.support_x, batch.support_y, batch.tasks)
    assert baseline_scores(itself, task).tolist() == [100] * 3


def test_the_mean_of_the_support_set():
    source = SineSource(0)
    batch = source.episode(source.draw("test", np.arange(4), 3, 5), 3)
    expected = [float(((batch.query_y[b] - sum(batch.support_y[b]) / 3) ** 2).mean()) for b in range(4)]
    assert torch.allclose(baseline_scores(batch, source.task), torch.tensor(expected))
