"""What is measured beside the score: Figure 6, SAP's subspaces, further tests, figures of the inner loop."""

import json

import pytest
import torch
import torch.nn.functional as F

from fewshot.config.run_id import run_folder
from fewshot.errors import UserError
from fewshot.report import load
from fewshot.training.evaluate import draw_figures, evaluate
from fewshot.training.run import run as train
from fewshot.training.similarity import similarities
from tests.conftest import BACKBONES, CLASSES, OPLSTM, RELEASED, SAP, Task, episode, make
from tests.helpers import evaluation, images_of, rows
from tests.offline import records, summary
from tests.test_curves import images as own_images
from tests.test_plots import images


def oplstm(backbone="conv4"):
    return make("oplstm", backbone, **OPLSTM | RELEASED | {"normalisation": "matrix"})


def plain_similarity(learner, support_x, support_y, final, paper):
    """One task, by autograd: cosine and distance to gradient descent, then to prototypes."""
    initial, bias = learner.head.weight.detach(), learner.head.bias.detach()
    features = learner.body(support_x[None])[0].detach()
    descended = initial
    for _ in range(learner.passes):
        descended = descended.clone().requires_grad_()
        loss = F.cross_entropy(features @ descended.T + bias, support_y)
        (gradient,) = torch.autograd.grad(loss, descended)
        descended = (descended - 0.01 * gradient).detach()
    prototypes = torch.stack([2 * features[support_y == n].mean(0) for n in range(3)])
    zero = initial if paper else torch.zeros_like(initial)
    found = []
    for ours, other in ((final - initial, descended - initial), (final - zero, prototypes - zero)):
        ours, other = ours.flatten(), other.flatten()
        found += [float(ours @ other / ours.norm() / other.norm()), float((ours - other).norm())]
    return found


@pytest.mark.parametrize("definition", ["paper", "released"])
def test_similarities_equal_their_definition(definition):
    learner = oplstm()
    batch = episode(learner)
    found = similarities(learner, batch, definition)
    _, initial, final = learner.output_layer(batch.support_x, batch.support_y)
    names = ("cosine_gradient", "distance_gradient", "cosine_prototypes", "distance_prototypes")
    for b in range(3):
        task = (batch.support_x[b], batch.support_y[b], final[b].detach())
        expected = plain_similarity(learner, *task, definition == "paper")
        assert [float(found[name][b]) for name in names] == pytest.approx(expected, rel=1e-9)
    assert torch.equal(initial[0], learner.head.weight)
    predicted = learner.body(batch.query_x) @ final.mT + learner.head.bias
    torch.testing.assert_close(predicted, learner.predict(batch))


def test_figure_6_is_logged_and_drawn(tmp_path):
    small = ["method=oplstm", "backbone=conv4", "trainer.max_steps=10"]
    cfg = own_images(tmp_path, *small, "trainer.similarity=paper")
    other = cfg.copy()
    other.trainer.similarity = "released"
    folder = run_folder(cfg)
    assert folder == run_folder(other)
    train(cfg)
    logged = [r for r in rows(folder / "metrics.csv") if r["metric"] == "similarity_paper/cosine_gradient"]
    assert [int(r["tasks"]) for r in logged] == [0, 20]
    assert all(-1 <= float(r["value"]) <= 1 for r in logged)
    assert (folder / "similarity-paper.png").exists()
    assert (folder / "test_task_0.png").exists()
    for _ in range(2):  # finished, and as if it had been interrupted
        with pytest.raises(UserError, match=r"began without trainer\.similarity=released"):
            train(other)
        (folder / "result.json").unlink(missing_ok=True)
    assert train(cfg)["status"] == "finished"


@pytest.mark.parametrize(("backbone", "layers"), [("conv4", 4), ("fc", 2)])
def test_interpretability_is_the_activation_strengths(backbone, layers):
    learner = make("sap", backbone, **SAP)
    found = learner.interpretability()
    # three levels of multiplications and shifts, two of scales, the head
    assert len(found) == 3 * layers + 3 * 3 + 2 * 3 + 1
    strengths = learner.net.strengths
    expected = strengths[1].multiplication.softmax(0).tolist()
    assert [v for k, v in found.items() if k.startswith("level 1, multiplication")] == pytest.approx(expected)
    with torch.no_grad():
        strengths[2].scale.copy_(torch.tensor([0.0, 50.0, 0.0]))
    assert learner.interpretability()["level 2, scale: mtl"] == pytest.approx(1)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("backbone", ["conv4", "fc"])
def test_sap_starts_as_the_plain_network(backbone, centred):
    shape = (2, 8, 8) if backbone == "conv4" else (1, 3, 3)
    learner = CLASSES["sap"](Task(shape, 3, False), BACKBONES[backbone], **SAP | {"centred": centred})
    x, net = torch.randn(2, 5, *shape), learner.net
    with torch.no_grad():
        weights = {n: p.expand(2, *p.shape) for n, p in net.named_parameters() if learner.adapts(n)}
        found = torch.func.functional_call(net, weights, (x,))
        plain = net.body(x) @ net.head.weight.T + net.head.bias
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_later_evaluations(tmp_path):
    cfg = own_images(tmp_path, "logger=wandb")
    one, two = str(tmp_path / "images"), str(tmp_path / "two")
    images_of(tmp_path, "two")
    alone = train(cfg)
    folder = run_folder(cfg)
    [own] = wandb_runs(folder)
    evaluate(evaluation(folder, tmp_path, path=two, queries=3))
    evaluate(evaluation(folder, tmp_path, path=one))
    tested = evaluate(evaluation(folder, tmp_path, path=two))
    assert json.loads((folder / "result.json").read_text()) == alone
    name = tested["data"]
    assert name.startswith("folder-two-")
    found = load(folder)  # the run's own test, repeated, adds no row
    assert sorted(found["test_queries"]) == [alone["test_queries"], 3, 15]
    assert found.loc[found["test_queries"] == 15, "mean"].item() == tested["mean"]
    logged = summary(folder)
    assert logged[f"test/{name}/accuracy"] == tested["mean"]
    assert logged[f"test/{name}/task_scores.nrows"] == 30
    evaluate(evaluation(folder, tmp_path, path=two))  # repeated, the same run of W&B
    tests = [run for run in wandb_runs(folder) if run.run_id != own.run_id]
    assert (own.job_type, {test.job_type for test in tests}) == ("train", {"evaluate"})
    ids, again = {test.run_id for test in tests}, f"{own.display_name}-on-{name}-2way-1shot-15queries-30tasks"
    assert (len(tests), len(ids)) == (4, 3)
    assert [test.display_name for test in tests].count(again) == 2
    assert {test.run_group for test in tests} == {own.run_group}


def wandb_runs(folder):
    return [record.run for record in records(folder) if record.HasField("run")]


def test_weights_are_drawn(tmp_path):
    draw_figures(tmp_path, images()[1], oplstm("fc").float(), "", "none")
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {*(f"test_task_{n}" for n in range(4)), "weights"}
