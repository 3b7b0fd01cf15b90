"""What is measured beside the score: Figure 6's similarities, SAP's subspaces, further test sets, inner pictures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fewshot.training.run import run as train
from matplotlib.figure import Figure

from fewshot.config.run_id import run_folder
from fewshot.errors import UserError
from fewshot.methods.base import MetaLearner
from fewshot.methods.oplstm import OPLSTM
from fewshot.methods.sap import SAP
from fewshot.plots.adaptation import inner_steps, passes_figure, weights_figure
from fewshot.plots.similarity import similarities
from fewshot.report import load
from fewshot.training import train as runs_train
from fewshot.training.evaluate import evaluate
from tests.conftest import LSTM, MAML, RELEASED, episode, make
from tests.conftest import OPLSTM as OPTIONS
from tests.conftest import SAP as SAP_OPTIONS
from tests.made_files import fill_folder, picture
from tests.offline import records, summary
from tests.test_plots import images, waves
from tests.test_runs import config, evaluation, rows

SMALL = ["data=glyphs", "method=protonet", "trainer.max_steps=10", "data.ways=3"]


# ---------------------------------------------------------------- Figure 6
def oplstm(backbone: str = "conv4") -> OPLSTM:
    learner = make("oplstm", backbone, **OPTIONS | RELEASED | {"normalisation": "matrix"})
    assert isinstance(learner, OPLSTM)
    return learner


def plain_similarity(learner: OPLSTM, support_x: Any, support_y: Any, final: Any, paper: bool) -> list[float]:
    """One task, by autograd and by hand: cosine and distance to gradient descent, then to prototypes."""
    initial, bias = learner.head.weight.detach(), learner.head.bias.detach()
    features = learner.body(support_x[None])[0].detach()
    descended = initial
    for _ in range(learner.passes):
        descended = descended.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            F.cross_entropy(features @ descended.T + bias, support_y), descended
        )
        descended = (descended - 0.01 * gradient).detach()
    prototypes = torch.stack([2 * features[support_y == n].mean(0) for n in range(3)])
    zero = initial if paper else torch.zeros_like(initial)
    found = []
    for ours, other in ((final - initial, descended - initial), (final - zero, prototypes - zero)):
        ours, other = ours.flatten(), other.flatten()
        found += [float(ours @ other / ours.norm() / other.norm()), float((ours - other).norm())]
    return found


@pytest.mark.parametrize("definition", ["text", "released"])
def test_similarities_equal_their_definition(definition: str) -> None:
    learner = oplstm()
    batch = episode(learner)
    found = similarities(learner, batch, definition)
    finals = learner.output_layer(batch.support_x, batch.support_y)[2].detach()
    names = ("cosine_gradient", "distance_gradient", "cosine_prototypes", "distance_prototypes")
    for b in range(3):
        one = plain_similarity(
            learner, batch.support_x[b], batch.support_y[b], finals[b], definition == "text"
        )
        assert [float(found[name][b]) for name in names] == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize("backbone", ["conv4", "fc"])
def test_output_layer_is_what_predicts(backbone: str) -> None:
    """H_T of the output layer on the query's features gives the prediction where only that layer is adapted."""
    learner = oplstm(backbone)
    batch = episode(learner)
    features, initial, final = learner.output_layer(batch.support_x, batch.support_y)
    assert torch.equal(initial[0], learner.head.weight)
    if backbone == "conv4":
        close = learner.body(batch.query_x) @ final.mT + learner.head.bias
        torch.testing.assert_close(close, learner.predict(batch))
    assert features.shape == (3, 6, final.shape[2])


def test_figure_6_is_logged_and_drawn(tmp_path: Path) -> None:
    small = [
        "data=glyphs",
        "method=oplstm",
        "backbone=conv4",
        "backbone.widths=[3,4]",
        "trainer.max_steps=10",
    ]
    cfg = config(tmp_path, *small, "data.ways=3", "trainer.similarity=paper")
    plain = config(tmp_path, *small, "data.ways=3")
    assert run_folder(cfg) == run_folder(plain)
    train(cfg)
    logged = [
        r for r in rows(run_folder(cfg) / "metrics.csv") if r["metric"] == "similarity_text/cosine_gradient"
    ]
    assert [int(r["tasks"]) for r in logged] == [0, 20]
    assert all(-1 <= float(r["value"]) <= 1 for r in logged)
    assert (run_folder(cfg) / "similarity-paper.png").read_bytes()[:4] == b"\x89PNG"
    assert train(cfg)["status"] == "finished"
    with pytest.raises(UserError, match=r"began without trainer\.similarity=released"):
        train(config(tmp_path, *small, "data.ways=3", "trainer.similarity=released"))
    (run_folder(cfg) / "result.json").unlink()  # as if it had been interrupted
    with pytest.raises(UserError, match=r"began without trainer\.similarity=released"):
        train(config(tmp_path, *small, "data.ways=3", "trainer.similarity=released"))
    assert train(cfg)["status"] == "finished"
    (run_folder(cfg) / "last.ckpt").unlink()  # as in an archive of results
    with pytest.raises(UserError, match=r"began without trainer\.similarity=released"):
        train(config(tmp_path, *small, "data.ways=3", "trainer.similarity=released"))
    result = run_folder(cfg) / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"status": "failed"}))
    (run_folder(cfg) / "metrics.csv").unlink()
    assert train(cfg)["status"] == "finished"


# ---------------------------------------------------------------- SAP's subspaces
@pytest.mark.parametrize(("backbone", "layers"), [("conv4", 4), ("fc", 2)])
def test_findings_are_the_activation_strengths(backbone: str, layers: int) -> None:
    learner = make("sap", backbone, **SAP_OPTIONS)
    assert isinstance(learner, SAP)
    found = learner.interpretability()
    assert (
        len(found) == 3 * layers + 3 * 3 + 2 * 3 + 1
    )  # three levels of multiplications and shifts, two of scales, the head
    expected = learner.net.strengths[1].multiplication.softmax(0).tolist()  # type: ignore[union-attr,index]
    assert [v for k, v in found.items() if k.startswith("level 1, multiplication")] == pytest.approx(expected)
    with torch.no_grad():
        learner.net.strengths[2].scale.copy_(torch.tensor([0.0, 50.0, 0.0]))  # type: ignore[union-attr,index,operator]
    assert learner.interpretability()["level 2, scale: mtl"] == pytest.approx(1)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("backbone", ["conv4", "fc"])
def test_sap_starts_as_the_plain_network(backbone: str, centred: bool) -> None:
    """Transformations begin at the identity, so that before any step nothing is changed by them."""
    from tests.conftest import BACKBONES, Task

    shape = (2, 8, 8) if backbone == "conv4" else (1, 3, 3)
    learner = CLASSES["sap"](Task(shape, 3, False), BACKBONES[backbone], **SAP_OPTIONS | {"centred": centred})
    x = torch.randn(2, 5, *shape)
    net: Any = learner.net
    with torch.no_grad():
        weights = {n: p.expand(2, *p.shape) for n, p in net.named_parameters() if learner.adapts(n)}  # type: ignore[operator]
        found = torch.func.functional_call(net, weights, (x,))
        features = net.body(x)
        torch.testing.assert_close(found, features @ net.head.weight.T + net.head.bias, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- further test sets
def test_further_data_sets_are_tested_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, queries, names = [], 4, iter("")

    def across(trained: Any, *_: Any) -> Any:  # tests have no image data but glyphs:
        tested = trained.copy()
        tested.data.test_queries = queries
        return tested

    def table_of(_: Any) -> str:  # two names for it
        return next(names)

    def evaluate_on(*told: Any, **options: Any) -> Any:
        asked.append(options["entry"])
        return evaluated(*told, **options)

    evaluated = runs_train.evaluate_on
    monkeypatch.setattr("fewshot.config.eval_config.across", across)
    monkeypatch.setattr("fewshot.training.finished.table_of", table_of)
    monkeypatch.setattr(runs_train, "evaluate_on", evaluate_on)
    cfg = config(tmp_path, *SMALL)
    alone = train(cfg)
    assert "tests" not in alone
    further = config(tmp_path, *SMALL, "data.test=[mini,cub]")
    assert run_folder(further) == run_folder(cfg)
    names = iter(["mini", "cub"])
    result = train(further)  # finished already: only the tests are new
    assert asked == ["mini", "cub"]
    assert set(result["tests"]) == {"mini", "cub"}
    assert result["tests"]["mini"]["test_queries"] == 4
    assert result["mean"] == alone["mean"]
    assert json.loads((run_folder(cfg) / "result.json").read_text()) == result
    asked.clear()
    names = iter(["mini", "cub"])
    assert train(further) == result
    assert asked == []
    queries = 4000
    with pytest.raises(
        UserError, match=r"data\.test names glyphs: .*data\.test_queries=4000.*; or leave it out"
    ):
        train(config(tmp_path, *SMALL, "data.test=[mini]", "overwrite=true"))
    assert json.loads((run_folder(cfg) / "result.json").read_text()) == result


def test_a_later_evaluation_on_other_data_adds_its_entry(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        fill_folder(
            tmp_path / name, {f"class{c}/{i}.png": picture(20 * c + i) for c in range(12) for i in range(20)}
        )
    small = ["data=folder", "method=protonet", "backbone.widths=[4,4]", "data.size=8", "data.channels=1"]
    small += ["data.ways=2", "data.train_queries=3", "data.val_queries=3", f"data.path={tmp_path / 'one'}"]
    cfg = config(tmp_path, *small, "logger=wandb")
    alone = train(cfg)
    folder = run_folder(cfg)
    before = len(runs_in_wandb(folder))
    evaluate(
        evaluation(folder, tmp_path, path=str(tmp_path / "two"), queries=3)
    )  # of another protocol: no entry
    evaluate(evaluation(folder, tmp_path, path=str(tmp_path / "one")))  # the run's own data: no entry
    assert json.loads((folder / "result.json").read_text()) == alone
    tested = evaluate(evaluation(folder, tmp_path, path=str(tmp_path / "two")))
    result = json.loads((folder / "result.json").read_text())
    (name, entry), *others = result.pop("tests").items()
    assert (result, others) == (alone, [])
    assert name.startswith("folder-two-")
    assert (entry["mean"], entry["test_queries"]) == (tested["mean"], 15)
    capfd.readouterr()
    found = load(folder)  # the own test made again is no further row
    assert sorted(found["test_queries"]) == [alone["test_queries"], 3, 15]
    assert found.loc[found["test_queries"] == 15, "mean"].item() == tested["mean"]
    assert [len(scores) for scores in found["scores"]] == [30] * 3
    assert capfd.readouterr().err == ""
    kept = summary(folder)
    assert kept[f"test/{name}/accuracy"] == tested["mean"]
    assert kept[f"test/{name}/task_scores.nrows"] == sum(kept[f"test/{name}/scores.values"]) == 30
    own, *tests = runs_in_wandb(folder)
    assert (own.job_type, before) == ("train", 1)
    assert [test.job_type for test in tests] == ["evaluate"] * 3
    assert len({test.run_id for test in tests} | {own.run_id}) == 4
    assert {test.run_group for test in tests} == {own.run_group}
    assert tests[-1].display_name == f"{own.display_name}-on-{name}-2way-1shot-15queries-30tasks"
    evaluate(evaluation(folder, tmp_path, path=str(tmp_path / "two")))
    assert runs_in_wandb(folder)[-1].run_id == tests[-1].run_id  # made again, the same


def runs_in_wandb(folder: Path) -> list[Any]:
    return [record.run for record in records(folder) if record.HasField("run")]


# ---------------------------------------------------------------- pictures of the inner loop
@pytest.mark.parametrize("method", ["lstm", "maml"])
def test_passes_are_drawn_from_none_to_all(method: str) -> None:
    learner, datamodule = waves()
    if method == "maml":
        learner = make("maml", "mlp", regression=True, **MAML).float()
    figure = passes_figure(learner, datamodule)
    assert isinstance(figure, Figure)
    lines = figure.axes[0].lines
    assert len(lines) == 1 + 4 + 1  # the wave, 0 to 3 passes, the support set
    batch = episode(learner.double())
    with inner_steps(learner, 0), torch.no_grad():
        untrained = learner.eval().predict(batch)
    others = batch._replace(support_y=batch.support_y + 1)
    with inner_steps(learner, 0), torch.no_grad():
        torch.testing.assert_close(learner.predict(others), untrained)  # no pass, nothing learned


def test_sequence_without_a_pass_predicts() -> None:
    learner = make("lstm", "fc", **LSTM, support_mode="sequence", pool_cell=False, query_cell=False)
    batch = episode(learner)
    with inner_steps(learner, 0), torch.no_grad():
        assert learner.predict(batch).isfinite().all()


def test_weights_are_drawn_and_every_picture_saved(tmp_path: Path) -> None:
    learner: MetaLearner = oplstm("fc").float()
    _, datamodule = images()
    assert len(weights_figure(learner, datamodule).axes) == 6  # type: ignore[arg-type]
    cfg = config(tmp_path)
    train(cfg)
    evaluate(evaluation(run_folder(cfg), tmp_path, pictures=True, tasks=8))
    names = {p.name for p in (run_folder(cfg) / "evaluations").glob("*/*.png")}
    assert {"passes.png", "test_task_0.png"} <= names
