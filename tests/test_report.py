"""Reports: the paper's tables and figures from runs that are there, missing, shrunk, broken or a stranger's."""

import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy import stats

from benchmarks.cases import make_seeded, random_images
from fewshot.config.checks import check
from fewshot.config.compose import CONF, composed
from fewshot.config.random_search import draw
from fewshot.config.run_id import run_folder
from fewshot.report import load
from fewshot.report.__main__ import main, report
from fewshot.report.figures import curve_of, curves_of, headline, three_across
from fewshot.report.paired import Pair, corrected, paired, pairs, ranks, verdict
from fewshot.report.runs import Cell, cells, studies, title
from fewshot.report.summary import carries, summarise
from fewshot.report.tested import of_study, planned
from fewshot.report.write import with_width
from fewshot.results.paper import FIGURES, INTERVALS, OVER_SEEDS
from fewshot.results.statistics import half_width
from fewshot.training.build import make_datamodule, make_source
from tests.offline import history, records, summary

pytestmark = pytest.mark.usefixtures("composed_once")

TASKS = 2000


def stored(cell: Cell, scores: NDArray[np.float64] | None, **other: Any) -> None:
    """A run's folder as train.py leaves it, as far as a report reads it."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    sine = cell.cfg.data.name == "sine"
    protocol = planned(cell.cfg)[cell.cfg.data.name]
    result = {
        "status": "finished",
        "method": cell.cfg.method.name,
        "variant": cell.cfg.variant,
        "data": cell.cfg.data.name,
        "trained_on": cell.cfg.data.name,
        "metric": "mse" if sine else "accuracy",
        "bn": "none",
        "ways": 1 if sine else 5,
        "shots": cell.cfg.shots,
        "val_shots": cell.cfg.shots,
        "test_queries": cell.cfg.data.test_queries,
        "seed": cell.cfg.seed,
        "mean": None if scores is None else float(scores.mean()),
        "ci95": None if scores is None else 0.1,
        "tasks": None if scores is None else len(scores),
        "reason": None,
        "published_settings": True,
        "interpretability": {},
        "baselines": {},
        "config_diff": {key: json.loads(value) for key, value in protocol.settings},
        "tests": {},
        "parameters": 20201,
        "train_seconds": 90.0,
        "best_validation": None if scores is None else float(scores[:10].mean()),
        "device": "a processor",
        "threads": 1,
        "versions": {"torch": "2.15.0"},
        "git_commit": "0123456789abcdef",
    }
    (cell.folder / "result.json").write_text(json.dumps(result | other))
    curve = "".join(f"{t},{t},val/{result['metric']},{5 / (1 + t)}\n" for t in range(0, 5000, 1000))
    curve += "".join(f"{t},{t},train/loss,{6 / (1 + t)}\n" for t in range(100, 5000, 100))
    (cell.folder / "metrics.csv").write_text("tasks,update,metric,value\n" + curve)
    if scores is not None:
        rows = "".join(f"{task},{score!r}\n" for task, score in enumerate(scores.tolist()))
        (cell.folder / "test_scores.csv").write_text(f"task,score\n{rows}")


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def some(mean: float, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).gamma(2.0, mean / 2, TASKS)


# ---------------------------------------------------------------- the cells of a study
def test_the_cells_of_a_table_are_its_methods_shots_and_seeds(outputs: Path) -> None:
    found = cells("table1")
    assert len(found) == len({cell.folder for cell in found}) == 27
    assert {(cell.cfg.method.name, cell.cfg.shots, cell.cfg.seed) for cell in found} == {
        (method, shots, seed)
        for method in ("lstm", "maml", "oplstm")
        for shots in (5, 10, 20)
        for seed in (1337, 0, 42)
    }
    assert all(outputs in cell.folder.parents for cell in found)


def test_settings_narrow_a_study_as_they_do_a_multirun() -> None:
    found = cells("table2", ["method=oplstm,protonet", "seed=0", "shots=1", "variant=paper"])
    assert [(cell.name, cell.cfg.seed, cell.cfg.shots, cell.cfg.variant) for cell in found] == [
        ("oplstm", 0, 1, "text"),
        ("protonet", 0, 1, "text"),
    ]
    quick = cells("table2", ["method=oplstm", "seed=0", "shots=1", "profile=quick"])[0]
    assert quick.cfg.trainer.max_steps == 2000
    assert quick.folder not in {cell.folder for cell in cells("table2")}
    for cell in cells("table2", ["seed=0", "profile=quick"]):
        run = cell.cfg.trainer
        assert run.max_steps * cell.cfg.method.meta_batch_size == pytest.approx(8000, abs=8)
        assert (
            run.max_steps - 4 < 4 * run.val_check_interval <= run.max_steps
        )  # the last quarter is validated


@pytest.mark.parametrize("study", ["table1", "table2", "table4", "tableA1", "figure5", "figure5-omniglot"])
def test_every_cell_that_the_paper_has_finds_its_number(study: str) -> None:
    fewer = ["method=lstm,sap"] if study == "table4" else []
    runs = of_study(cells(study, ["seed=0", *fewer]))
    without = {(row.method, row.trained_on, row.data) for row in runs.itertuples() if pd.isna(row.paper)}
    not_in_paper = {("lstm", "cub", "cub"), ("lstm", "cub", "mini")} if study == "table4" else set()
    assert without == not_in_paper
    if study.startswith("table"):
        assert (runs["paper"].isna() == runs["paper_ci95"].isna()).all()
    if study in ("table2", "table4"):  # Tables B4 to B6
        assert (runs["paper"].isna() == runs["paper_seeds"].isna()).all()
    assert set(OVER_SEEDS) <= set(INTERVALS) <= set(FIGURES)


# ---------------------------------------------------------------- a table
def test_a_table_holds_ours_the_papers_and_both_intervals() -> None:
    found = cells("table1", ["shots=5"])
    for cell in found:
        if cell.name == "lstm":
            stored(cell, some(0.04, cell.cfg.seed))
        if cell.name == "maml" and cell.cfg.seed == 0:
            stored(cell, some(0.4, 0))
        if cell.name == "oplstm":
            stored(cell, None, status="timeout", mean=None, ci95=None, tasks=None)
    said, runs, _ = report("table1", ["shots=5"])
    table = summarise(runs)
    lstm = table["lstm"]["sine 5-shot"]
    expected = [some(0.04, seed) for seed in (1337, 0, 42)]
    means = [scores.mean() for scores in expected]
    assert lstm.mean == pytest.approx(np.concatenate(expected).mean())
    assert lstm.of_tasks == pytest.approx(
        1.96 * np.concatenate(expected).std(ddof=1) / (3 * TASKS) ** 0.5, rel=1e-3
    )
    assert lstm.of_seeds == pytest.approx(4.3027 * np.std(means, ddof=1) / 3**0.5, rel=1e-3)
    assert (lstm.paper, lstm.paper_ci95, lstm.meets) == (0.0406, 0.002, True)
    assert table["maml"]["sine 5-shot"].meets is False
    shown = next(iter(said.tables.values())).set_index("")["sine 5-shot"]
    assert re.fullmatch(r"0\.0\d+ ± 0\.000\d+ \[0\.0406 ± 0\.002\]", shown["lstm"])
    assert "(1/3) [0.177" in shown["maml"]
    assert shown["oplstm"].startswith("- [0.105")


def test_shrunk_runs_are_marked_and_never_stand_in_a_full_table() -> None:
    for cell in cells("table1", ["profile=quick", "shots=5", "method=lstm"]):
        stored(cell, some(0.04, cell.cfg.seed)[:200])
    quick, _, _ = report("table1", ["profile=quick", "shots=5", "method=lstm"])
    full, _, _ = report("table1", ["shots=5", "method=lstm"])
    assert "*" in str(next(iter(quick.tables.values())).to_dict())
    assert "· [" in str(next(iter(full.tables.values())).to_dict())
    assert (
        "[" not in next(iter(quick.tables.values())).iloc[0]["sine 5-shot"]
    )  # it is not the paper's protocol


@pytest.mark.parametrize("broken", ["result", "empty", "scores", "torn", "fewer", "other", "unfinished"])
def test_broken_and_foreign_folders_are_named(broken: str) -> None:
    found = cells("table1", ["shots=5", "method=lstm"])
    for cell in found:
        stored(cell, some(0.04, cell.cfg.seed))
    bad = found[1].folder
    if broken == "result":
        (bad / "result.json").write_text('{"mean": 3}')
    elif broken == "empty":
        (bad / "result.json").write_text("")
    elif broken == "scores":
        (bad / "test_scores.csv").unlink()
    elif broken == "torn":
        (bad / "test_scores.csv").write_bytes(b"task,score\n0,0.1\n1,\xff")
    elif broken == "fewer":
        (bad / "test_scores.csv").write_text("task,score\n0,0.1\n")
    elif broken == "other":
        stored(found[1], some(0.04, 1))
        lines = (bad / "test_scores.csv").read_text().replace("task,score\n0,0.", "task,score\n0,9999.")
        (bad / "test_scores.csv").write_text(lines)
    else:
        (bad / "result.json").unlink()
        (bad / "last.ckpt").touch()
    said, runs, _ = report("table1", ["shots=5", "method=lstm"])
    assert summarise(runs)["lstm"]["sine 5-shot"].seeds == (1337, 42)
    assert any(str(bad) in words for words in said.words)
    mend = "python evaluate.py run=FOLDER makes a test that is missing"
    assert (mend in said.words) == (broken in ("scores", "torn", "fewer", "other"))
    if mend in said.words:
        evaluated(found[1], "sine", some(0.04, 0), queries=50)
        assert summarise(report("table1", ["shots=5", "method=lstm"])[1])["lstm"]["sine 5-shot"].seeds == (
            1337,
            0,
            42,
        )


@pytest.mark.parametrize(
    ("other", "status"),
    [
        ({"method": "maml"}, "foreign"),
        ({"seed": 7}, "foreign"),
        ({"shots": 10}, "foreign"),
        ({"variant": "text"}, "foreign"),
        ({"metric": "accuracy"}, "foreign"),
        ({"config_diff": {"trainer.max_steps": 10}}, "foreign"),
        ({"versions": "2.15"}, "unreadable"),
        ({"threads": "two"}, "unreadable"),
        ({"device": 3}, "unreadable"),
        ({"train_seconds": "x"}, "unreadable"),
        ({"tests": 3}, "unreadable"),
    ],
)
def test_a_result_of_something_else_is_no_cells(other: dict[str, Any], status: str) -> None:
    found = cells("table1", ["shots=5", "method=lstm"])
    for cell in found:
        stored(cell, some(0.04, cell.cfg.seed))
    stored(found[1], some(0.04, 0), **other)
    said, runs, _ = report("table1", ["shots=5", "method=lstm"])
    assert summarise(runs)["lstm"]["sine 5-shot"].seeds == (1337, 42)
    assert f"{status}: {found[1].folder}" in said.words


def test_further_tests_are_those_of_finished_runs() -> None:
    """Table 4's: what evaluate.py, or the run itself, kept of a test on other data, of the state that was chosen."""
    told = ["data=mini", "method=oplstm", "shots=1"]
    found = cells("table4", told)
    for cell in found:
        done = cell.cfg.seed != 42
        stored(cell, some(50, 0)[:600] if done else None, status="finished" if done else "timeout")
    for cell in found[:2]:
        evaluated(
            cell, "cub", some(40, cell.cfg.seed)[:600], device="another processor", git_commit="feedbeef" * 5
        )
    said, runs, _ = report("table4", told)
    assert [word.split(";")[0] for word in said.words if " on a" in word] == [
        "Made on a processor",
        "Further tests than the runs' own were made on another processor",
    ]
    assert "feedbeeffe" in said.words[-1]
    seen = summarise(runs)["oplstm"]["mini → cub 1-shot"]
    assert (seen.seeds, seen.status, seen.paper) == ((1337, 0), ("timeout",), 42.33)
    assert seen.mean == pytest.approx(np.mean([some(40, seed)[:600] for seed in (1337, 0)]))
    evaluated(found[0], "cub", some(40, 0)[:600], run_status="unfinished")  # of a state before the run's last
    evaluated(found[2], "cub", some(40, 0)[:600])
    (found[1].folder / "evaluations" / f"{evaluation(found[1], 'cub')}.json").unlink()
    seen = summarise(report("table4", told)[1])["oplstm"]["mini → cub 1-shot"]
    assert (seen.seeds, seen.status) == ((), ("foreign", "timeout", "untested"))


def test_the_forms_are_compared_as_the_page_says(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(outputs.parent)
    told = ["method=oplstm", "shots=1,5", "variant=released,text", "method.passes=1,2", "seed=1337,0,42,7"]
    for cell in cells("table2", told):  # further seeds, shots and settings lie there, too
        stored(cell, some(80, cell.cfg.seed)[:600])
        evaluated(cell, "omniglot", some(80, cell.cfg.seed)[:600] - 3 * (cell.cfg.variant == "released"))
    page = (CONF.parent / "docs" / "compare.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(block, {})
    assert re.search(r"text +1 +4 +75\.9", capsys.readouterr().out)
    [command] = re.findall(r"-m fewshot.report (.*queries=15)", page)
    study, *told = command.split()
    said, runs, _ = report(study, told)
    [pair] = pairs(runs)
    assert (pair.first, pair.where, pair.seeds) == ("oplstm variant=released", "omniglot 1-shot", 3)
    assert (pair.difference, pair.of_seeds) == (pytest.approx(-3), pytest.approx(0, abs=1e-9))
    assert runs["paper"].isna().all()  # it has one query
    assert said.title == "table2 variant=released,text method=oplstm queries=15 shots=1"


def test_tests_that_are_missing_are_told_how_to_make() -> None:
    found = cells("table2", told := ["method=oplstm", "shots=1"])
    for cell in found:
        stored(cell, some(80, cell.cfg.seed)[:600])
    evaluated(found[0], "omniglot", some(78, 0)[:600])
    said, runs, _ = report("table2", [*told, "queries=15"])
    assert list(runs["status"]) == ["finished", "untested", "untested"]
    assert "python evaluate.py run=FOLDER queries=15 makes a test that is missing" in said.words
    for cell in cells("table4", elsewhere := ["data=mini", "method=oplstm", "shots=1"]):
        stored(cell, some(50, cell.cfg.seed)[:600])
    words = report("table4", [*elsewhere, "queries=5"])[0].words
    assert words[:2] == [
        "python evaluate.py run=FOLDER queries=5 makes a test that is missing",
        "python evaluate.py run=FOLDER data=cub queries=5 makes a test that is missing",
    ]
    assert not any("train.py" in word for word in words)  # which would do nothing
    own = report("table2", told)[1].drop(columns="scores")
    assert report("table2", [*told, "queries=1"])[1].drop(columns="scores").equals(own)


def evaluation(cell: Cell, data: str, queries: int = 15) -> str:
    return replace(planned(cell.cfg)[data], queries=queries).file_name(data)


def evaluated(cell: Cell, data: str, scores: NDArray[np.float64], queries: int = 15, **other: Any) -> None:
    """What evaluate.py adds to a folder, as far as a report reads it."""
    result = json.loads((cell.folder / "result.json").read_text()) | {
        "status": "finished",
        "run_status": "finished",
    }
    result |= {
        "data": data,
        "test_queries": queries,
        "mean": scores.mean(),
        "ci95": 0.1,
        "tasks": len(scores),
    }
    place = cell.folder / "evaluations" / f"{evaluation(cell, data, queries)}.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(result | other))
    rows = "".join(f"{task},{score!r}\n" for task, score in enumerate(scores.tolist()))
    place.with_suffix(".csv").write_text(f"task,score\n{rows}")


@pytest.mark.parametrize(
    ("study", "told", "columns"),
    [
        ("table1", ["variant=released,text"], {"sine 5-shot, sin(x + p)", "sine 5-shot, sin(x - p)"}),
        ("table2", ["data.ways=5,20"], {"omniglot 5-shot, 5-way", "omniglot 5-shot, 20-way"}),
        (
            "table2",
            ["trainer.num_test_tasks=100,600"],
            {"omniglot 5-shot, 100 tasks", "omniglot 5-shot, 600 tasks"},
        ),
        (
            "table2",
            ["data=folder", "data.path={0}/a,{0}/b"],
            {"folder 5-shot, {0}/a", "folder 5-shot, {0}/b"},
        ),
    ],
)
def test_only_equal_tasks_share_a_column(
    study: str, told: list[str], columns: set[str], tmp_path: Path
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    told = [setting.format(tmp_path) for setting in [*told, "method=maml", "shots=5", "seed=0"]]
    runs = of_study(cells(study, told))
    assert set(runs["column"]) == {column.format(tmp_path) for column in columns}


def test_a_failed_run_is_a_line_of_the_report(outputs: Path) -> None:
    """It has neither a score nor what it was measured on."""
    found = cells("table1", ["shots=5", "method=lstm"])
    for cell in found:
        stored(cell, some(0.04, cell.cfg.seed), git_commit=None)
    place = found[1].folder / "result.json"
    result = json.loads(place.read_text()) | {
        "status": "failed",
        "reason": "ValueError: x",
        "differs_from_paper": None,
    }
    lost = (
        "mean",
        "ci95",
        "tasks",
        "device",
        "versions",
        "parameters",
        "train_seconds",
        "git_commit",
        "threads",
    )
    place.write_text(json.dumps({key: value for key, value in result.items() if key not in lost}))
    said, runs, _ = report("table1", ["shots=5", "method=lstm"])
    assert f"failed: {found[1].folder}" in said.words
    assert summarise(runs)["lstm"]["sine 5-shot"].seeds == (1337, 42)
    assert said.words[-1].endswith("commit unknown.")
    assert sorted(load(outputs)["status"]) == ["failed", "finished", "finished"]


def test_a_home_folder_is_the_one_of_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEWSHOT_OUTPUTS", "~/runs")
    assert all(cell.folder.is_relative_to(tmp_path / "runs") for cell in cells("table1", ["shots=5"]))


def test_tests_with_other_queries_are_never_compared() -> None:
    told = ["method=protonet", "shots=1", "variant=released,text"]
    for cell in cells("table2", told):
        stored(cell, some(80, cell.cfg.seed)[:600])
    said, runs, _ = report("table2", told)
    assert {name: list(row) for name, row in summarise(runs).items()} == {
        "protonet variant=released": ["omniglot 1-shot, 1 query"],
        "protonet variant=paper": ["omniglot 1-shot, 15 queries"],
    }
    assert not any(caption.startswith("pairs") for caption in said.tables)
    told = ["method.support_mode=set", "variant=released,text", "seed=0"]
    for cell in cells("figure5-omniglot", told):
        stored(cell, some(80, cell.cfg.shots)[:600])
    lines = report("figure5-omniglot", told)[0].figures["figure5-omniglot-shots"].axes[0].lines
    shots = [1, 3, 5, 8, 10]
    assert [list(line.get_xdata()) for line in lines] == [
        shots,
        shots,
        shots,
    ]  # of released, its paper's, and text


def test_no_error_is_below_zero() -> None:
    for cell in cells("figure5", told := ["data=sine", "method.support_mode=set"]):
        stored(cell, some(0.01, 0) * 10 ** (cell.cfg.seed % 3))
    axes = report("figure5", told)[0].figures["figure5-shots"].axes[0]
    assert axes.dataLim.y0 < 0 == axes.get_ylim()[0]


def test_what_runs_warn_of_stands_in_the_report() -> None:
    found = cells("table1", ["shots=5", "method=lstm"])
    for cell in found:
        stored(cell, some(0.04, cell.cfg.seed), warnings=[f"it jumps in {cell.cfg.seed} steps", "it blew up"])
    table = report("table1", ["shots=5", "method=lstm"])[0].tables["what the runs warn of"]
    assert table.to_numpy().tolist() == [["it jumps in 1337 steps", 3], ["it blew up", 3]]


def measured(told: Sequence[str]) -> list[Cell]:
    """The cells of Figure 6, as if they had run: each measure grows by .01 in 1 000 updates, and is .3 more in one."""
    measures = ("cosine_gradient", "cosine_prototypes", "distance_gradient", "distance_prototypes")
    found = cells("figure6", told)
    for cell in found:
        stored(cell, some(50, cell.cfg.seed)[: cell.cfg.trainer.num_test_tasks])
        curve = [
            f"{4 * n},{n},similarity_{cell.cfg.variant}/{measure},{n / 100_000 + (cell.cfg.seed == 42) * 0.3}\n"
            for n in range(0, 80_001, 2_500)
            for measure in measures
        ]
        (cell.folder / "metrics.csv").write_text("tasks,update,metric,value\n" + "".join(curve))
    return found


def test_figure_6_stands_beside_the_papers_values() -> None:
    found = measured([])
    assert len(found) == 3
    said, _, _ = report("figure6")
    table = said.tables["figure 6: means over runs, validation tasks"]
    shown = {(row[0], row[1]): (row[2], row[3]) for row in table.itertuples(index=False)}
    assert shown["cosine to gradient", "120,000"] == (
        "0.4",
        "0.8",
    )  # .3 + .3 / 3, after 12 times 2 500 updates of 4
    assert shown["distance to prototypes", "320,000"] == ("0.9", "45.0")
    (found[0].folder / "metrics.csv").write_text("torn")
    assert "figure6-similarity" in report("figure6")[0].figures


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_a_long_name_is_whole_above_a_figure(panels: int) -> None:
    figure, _ = three_across(panels, (2.6, 1.0), (0.6, 0.9))
    headline(
        figure,
        "table3 profile=quick data=mini method=oplstm,protonet seed=1337, shrunk: validation and so on",
    )
    figure.draw_without_rendering()
    where = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    assert 0 < where.x0 < where.x1 < figure.bbox.x1


@pytest.mark.parametrize("other", ["data=cub", "variant=paper", "profile=quick"])
def test_figure_6_of_what_the_paper_has_not(other: str) -> None:
    measured([other])
    said, _, _ = report("figure6", [other])
    assert "figure6-similarity" in said.figures
    assert not [caption for caption in said.tables if caption.startswith("figure 6")]


def test_what_a_result_need_not_say() -> None:
    """Of a test with fewer tasks, by versions that are not known, with curves of words."""
    [cell] = cells("table1", ["shots=5", "method=lstm", "seed=0"])
    unknown = dict.fromkeys(("threads", "git_commit", "train_seconds", "parameters"))
    stored(cell, some(0.04, 0), versions={}, **unknown)
    (cell.folder / "metrics.csv").write_text("tasks,update,metric,value\n0,0,val/mse,high\nx,1,val/mse,low\n")
    said, _, _ = report("table1", ["shots=5", "method=lstm", "seed=0"])
    assert "Made on a processor; unknown thread(s), torch unknown, commit unknown." in said.words
    stored(cell, some(0.04, 0)[:100])
    assert f"foreign: {cell.folder}" in report("table1", ["shots=5", "method=lstm", "seed=0"])[0].words


@pytest.mark.parametrize(
    ("told", "names", "seeds"),
    [
        (["++seed=3"], ["lstm", "maml", "oplstm"], [3]),
        (["++seed=3,4"], ["lstm", "maml", "oplstm"], [3, 4]),
        (["method=glob(*lstm)", "seed=0"], ["lstm", "oplstm"], [0]),
    ],
)
def test_a_study_is_narrowed_as_hydra_has_it(told: list[str], names: list[str], seeds: list[int]) -> None:
    found = cells("table1", ["shots=5", *told])
    assert [(cell.name, cell.cfg.seed) for cell in found] == [
        (name, seed) for name in names for seed in seeds
    ]


def test_a_run_named_twice_counts_once() -> None:
    assert [cell.cfg.seed for cell in cells("table1", ["method=lstm", "shots=5,5", "seed=0,0,42"])] == [0, 42]


def test_what_shrinks_a_run_is_seen_in_its_settings() -> None:
    for told, shrunk in (
        ("trainer.num_threads=1", False),
        ("++trainer.max_steps=8000", True),
        ("++trainer.max_steps=100000", False),
        ("method.meta_batch_size=8", False),
        ("trainer.max_steps=35000 method.meta_batch_size=2", False),  # 70 000 tasks, as the paper has
        ("trainer.max_steps=34999 method.meta_batch_size=1", False),  # more updates than the paper's 17 500
        ("trainer.max_steps=17499", True),
        ("trainer.num_val_tasks=9", True),
        ("trainer.num_test_tasks=9", True),
    ):
        assert set(of_study(cells("table1", ["method=lstm", "shots=5", *told.split()]))["reduced"]) == {
            shrunk
        }, told


def test_a_report_that_cannot_be_written_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["table1", "method=lstm", "shots=5", f"paths.outputs={tmp_path}/file", "logger=csv"]) == 2
    assert "the report cannot be written" in capsys.readouterr().err
    many = "method.lr=" + ",".join(f"0.{n:05}" for n in range(1, 16))
    assert main(["table1", "method=lstm", "shots=5", "seed=0", many, "logger=csv"]) == 0


def test_everything_is_written_and_printed(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for cell in cells("table1", ["shots=5"]):
        stored(cell, some(0.04 if cell.name == "lstm" else 0.1, cell.cfg.seed))
    assert main(["table1", "logger=csv"]) == 0
    folder = outputs / "reports" / "table1"
    assert "[the paper's]" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert {
        "report.md",
        "report.tex",
        "report.html",
        "runs.csv",
        "table1-scores.png",
        "table1-loss.pdf",
    } <= names
    page = (folder / "report.html").read_text()
    assert page.count("<table") == page.count("</table>") == 5
    assert 'src="data:image/png;base64,iVBOR' in page
    assert not re.search(r"(src|href)=['\"]?http", page)  # it needs nothing beside it
    tex = (folder / "report.tex").read_text()
    assert tex.count(r"\toprule") == tex.count(r"\begin{adjustbox}") == tex.count(r"\end{adjustbox}") == 5
    assert not set("±·<") & set(tex.replace("$<$", ""))
    assert r"\label{tab:table1-costs}" in tex
    for line in (
        line for line in tex.splitlines() if not line.startswith("% ")
    ):  # a % alone would comment the rest of its line out
        assert not re.search(r"(?<!\\)%", line)
        assert line.count("{") == line.count("}")
    raw = pd.read_csv(folder / "in_full.csv")
    assert raw.loc[0, "mean"] == pytest.approx(
        summarise(report("table1")[1])["lstm"]["sine 5-shot"].mean, rel=1e-12
    )
    assert {"p_seeds", "of_tasks"} <= set(pd.read_csv(folder / "pairs.csv"))
    markdown = (folder / "report.md").read_text().splitlines()
    table = [line for line in markdown if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in table[:4]}) == 1
    for cell in cells("table1", ["shots=5", "method=maml,oplstm"]):
        shutil.rmtree(cell.folder)
    assert main(["table1", "logger=csv"]) == 0
    assert names - {path.name for path in folder.iterdir()} == {"mean_rank.csv", "pairs.csv"}  # of one row


def test_a_terminal_without_the_signs_has_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    [cell] = cells("table1", told := ["method=lstm", "shots=5", "seed=0"])
    stored(cell, some(0.04, 0))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed := io.BytesIO(), encoding="ascii"))
    assert main(["table1", *told, "logger=csv"]) == 0
    assert b"\\xb1" in printed.getvalue()


def test_a_report_is_a_run_of_wandb(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    told = ["shots=5", "method=lstm"]
    for cell in cells("table1", told):
        stored(cell, some(0.04, cell.cfg.seed))
    for _ in range(2):  # the same run both times
        assert main(["table1", *told]) == 0
    [folder] = (outputs / "reports").iterdir()
    assert len({record.run.run_id for record in records(folder) if record.HasField("run")}) == 1
    logged = {name.split(".")[0] for row in history(folder) for name in row}
    assert {"table", "in full", "table1-scores", "table1-validation"} <= logged
    assert "Made on a processor" in str(summary(folder))


def test_nothing_run_is_a_table_of_dots(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tableA1", "logger=csv"]) == 0
    out = capsys.readouterr().out
    assert "· [0.04" in out
    assert (
        "none of these cells has a score: python train.py -m experiment=tableA1 logger=csv runs them" in out
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["table9"], "unknown study 'table9': choose"),
        (["table1", "method=foo"], "unknown method 'foo'"),
        (["method=maml"], "name a study first"),
        (["table1", "shots=x"], "shots=x: give positive whole numbers"),
        (["table1", "foo=1"], "unknown setting 'foo'"),
        (["table1", "seed=a"], "seed=a: give a whole number"),
        (["table1", "queries=x"], "queries=x: give a whole number from 1"),
        (["table1", "queries=0"], "queries=0: give a whole number from 1"),
        (["table2", "++data.test.x=none"], "give a list as a whole, as data.test=[cub]"),
        (["table1", "method=lstm", "method.passes=0"], "method.passes=0: give"),
        (["demo"], "demo is a single run"),
        (["table1", "method=5,6"], "choose by name, as method=maml"),
        (["table1", "method=[lstm,maml]"], "method is one name, or several of a grid"),
        (["table1", "method=lstm,glob(m*)"], "method=… names none of its choices, one of lstm"),
        (["table1", "+shots=5"], "choose by name, as method=maml"),
        (["table1", "seed=range(3,3)"], "table1 seed=range(3,3): no values, no cells"),
        (["table1", ""], "an empty argument: a setting is given as name=value"),
        (["table1", "-m"], "-m: a setting is given as name=value"),
        (["table1", "seed=1,,"], "seed=1,, cannot be read"),
        (["table1", "+search=lstm_sine"], "+search=lstm_sine: a report is of one study, table1"),
        (
            ["table1", "data=sine,omniglot", "method=lstm"],
            "errors on sine waves and accuracies are no one table",
        ),
        (["lstm_sine", "shots=5,10", "trial=0"], "trials are ranked within one method, data, shots and form"),
        (
            ["lstm_omniglot", "data.ways=5,20", "trial=0"],
            "trials are ranked within one method, data, shots and form",
        ),
        (["table1", "experiment=table2"], "experiment=table2: a report is of one study, table1"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_all_runs_of_a_folder_are_one_frame(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for cell in cells("table1", ["shots=5", "method=lstm"]):
        stored(cell, some(0.04, cell.cfg.seed))
    (outputs / "foreign").mkdir()
    (outputs / "foreign" / "result.json").write_text("[]")
    [cell] = cells("table1", ["shots=5", "method=lstm", "seed=0"])
    evaluation = cell.folder / "evaluations" / "sine-1way-10shot-50queries-2000tasks"
    evaluation.parent.mkdir()
    result = json.loads((cell.folder / "result.json").read_text())
    evaluation.with_suffix(".json").write_text(json.dumps(result | {"shots": 10, "run_status": "finished"}))
    evaluation.with_suffix(".csv").write_text((cell.folder / "test_scores.csv").read_text())
    earlier = evaluation.with_name("sine-1way-20shot-50queries-2000tasks.json")
    earlier.write_text(json.dumps(result | {"shots": 20, "run_status": "timeout", "best_step": 1}))
    frame = load(outputs)
    assert f"{earlier} is of an earlier state of the run: left out" in capsys.readouterr().err
    frame = load(outputs)
    assert sorted(zip(frame["seed"], frame["shots"], strict=True)) == [(0, 5), (0, 10), (42, 5), (1337, 5)]
    assert all(len(scores) == TASKS for scores in frame["scores"])
    assert set(frame.loc[frame["seed"] == 0, "folder"]) == {str(cell.folder)}
    assert frame.set_index("shots").loc[5, "paper"].eq(0.0406).all()
    assert frame.set_index("shots")["paper"].isna()[
        10
    ]  # what was trained for 5 shots is not the paper's 10-shot run
    assert str(outputs / "foreign") in capsys.readouterr().err


# ---------------------------------------------------------------- a search
def test_trials_are_ranked_by_validation() -> None:
    told = ["trial=range(0,6)"]
    found = cells("lstm_sine", told)
    for trial, cell in enumerate(found[:5]):
        scores, validation = some((0.5, 0.1, 0.3, 0.2, 0.4)[trial], trial), (0.5, 0.1, 0.3, 0.2, 0.4)[trial]
        scores[7] *= 10_000 if trial == 1 else 1
        stored(cell, scores, best_validation=validation, warnings=["it blew up"] * (trial == 1))
    said, _, _ = report("lstm_sine", told)
    table, ranked, warned = said.tables.values()
    assert warned.to_numpy().tolist() == [["it blew up", 1]]
    assert list(table["trial"]) == ["1", "3", "2", "4", "0"]
    rates = [cell.cfg.method.lr for cell in found[:5]]
    expected = stats.spearmanr(rates, (0.5, 0.1, 0.3, 0.2, 0.4)).statistic
    assert dict(ranked.to_numpy())["lr"] == f"{expected:+.2f}"
    assert {"hidden: layers", "hidden: units"} <= set(ranked[""])
    assert "5 of 6 trials have a result; 1 missing" in said.words
    assert said.words[-3] == "python train.py search=lstm_sine trial=1"
    assert re.match(r"one task of 2,000 carries \d+% of that test; the median is 0\.0832", said.words[-2])
    assert list(said.figures) == ["lstm_sine-trials"]


@pytest.mark.parametrize(
    ("told", "rates"),
    [
        (["oplstm_omniglot", "method.meta_batch_size=1,8,32", "method.passes=1"], {1e-3, 1.25e-4, 3.125e-5}),
        (["oplstm_mini", "method.meta_batch_size=4", "method.passes=3"], {2.5e-4}),  # the released runs'
        (
            ["lstm_omniglot", "trial=0", "method.meta_batch_size=12", "variant=released,text"],
            {1e-3 / 12, 1e-3},
        ),
    ],
)
def test_rates_are_of_losses_summed_over_a_meta_batch(told: list[str], rates: set[float]) -> None:
    assert {cell.cfg.method.lr for cell in cells(told[0], told[1:])} == rates


def test_the_trials_of_a_search_differ() -> None:
    space = OmegaConf.to_container(OmegaConf.load(CONF / "search" / "lstm_omniglot.yaml"), resolve=False)
    assert isinstance(space, dict)
    trials = [OmegaConf.create(space | {"trial": trial}) for trial in range(100)]
    drawn = {str(OmegaConf.to_container(trial.method, resolve=True)) for trial in trials}
    assert len(drawn) == 100


def test_a_trial_is_nothing_that_the_paper_has() -> None:
    assert of_study(cells("lstm_sine"))[["paper", "paper_parameters"]].isna().all(axis=None)


def test_trials_keep_their_numbers() -> None:
    """Of a part of a search, as another machine runs it, with several seeds, and alone."""
    told = ["trial=range(10,13)", "seed=0,1"]
    for place, cell in enumerate(cells("lstm_sine", told)):
        stored(cell, some(0.1, place), best_validation=float(10 - place))
    said, _, _ = report("lstm_sine", told)
    table, _ = said.tables.values()
    assert sorted(table["trial"]) == ["10", "10", "11", "11", "12", "12"]
    assert set(table["seed"]) == {"0", "1"}
    assert f"trial={table['trial'].iloc[0]}" in said.words[-2]
    alone, _, _ = report("lstm_sine", ["trial=11", "seed=0"])
    assert "1 of 1 trials have a result" in alone.words[0]
    assert not alone.figures


@pytest.mark.parametrize(
    ("study", "told"),
    [("maml_sine", ["trial=3,4"]), ("oplstm_mini", ["method.passes=1,3", "method.meta_batch_size=4"])],
)
def test_the_command_of_a_cell_is_the_cell(study: str, told: list[str]) -> None:
    for cell in cells(study, told)[-2:]:
        assert run_folder(composed(shlex.split(cell.command)[2:])) == cell.folder


# ---------------------------------------------------------------- which differences are real
@pytest.mark.parametrize("tasks", [600, 2000])
def test_intervals_cover_what_they_say(tasks: int) -> None:
    """Simulated: 3 seeds with differences of their own, tasks of the paper's number; 95% must mean 94 to 96%."""
    rng, times, truth = np.random.default_rng(0), 8000, 0.7
    of_seed = truth + 0.5 * rng.standard_normal((times, 3))
    noise_sd = 9.0
    # means of a seed's tasks: exact for their mean, without drawing 3 × 600 × 8000 numbers
    seen = of_seed + noise_sd / tasks**0.5 * rng.standard_normal((times, 3))
    widths = half_width(seen, axis=1)
    assert 0.94 <= np.mean(np.abs(seen.mean(1) - truth) <= widths) <= 0.96
    hits = []
    for these in of_seed[:2000]:
        drawn = these[:, None] + noise_sd * (rng.gamma(2.0, 1.0, (3, tasks)) - 2) / 2**0.5
        hits.append(abs(drawn.mean() - these.mean()) <= half_width(drawn.ravel()))
    assert 0.94 <= np.mean(hits) <= 0.96


def test_paired_intervals_cover_what_they_say() -> None:
    """Of two methods whose errors have long tails and share what is hard in a task; equal on average."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(1500):
        hard = 0.8 * rng.standard_normal((3, 2000))
        one, other = (np.exp(1.3 * (hard + 0.6 * rng.standard_normal((3, 2000)))) for _ in range(2))
        told = paired(one - other)
        hits.append(abs(told["difference"]) <= told["of_tasks"])
    assert 0.94 <= np.mean(hits) <= 0.96


def test_three_seeds_of_which_one_may_fail_are_covered_less() -> None:
    """compare.md says how much: OP-LSTM's errors on sine, .043, .114 and .334, are as far apart as these."""
    of_seed = np.exp(np.random.default_rng(0).standard_normal((20000, 3)))
    hits = np.abs(of_seed.mean(1) - np.exp(0.5)) <= half_width(of_seed, axis=1)
    assert 0.82 <= np.mean(hits) <= 0.85


@pytest.mark.parametrize(("apart", "spread", "covered"), [(4.5, 0.3, 0.64), (3.0, 1.0, 0.94)])
def test_seeds_that_end_in_one_of_two_places_are_covered_less(
    apart: float, spread: float, covered: float
) -> None:
    """compare.md says how much: five of six of OP-LSTM's on Omniglot seem to be in one place."""
    rng = np.random.default_rng(0)
    of_seed = apart * (rng.random((50000, 3)) < 5 / 6) + spread * rng.standard_normal((50000, 3))
    hits = np.abs(of_seed.mean(1) - apart * 5 / 6) <= half_width(of_seed, axis=1)
    assert np.mean(hits) == pytest.approx(covered, abs=0.01)


def test_pairing_cancels_what_tasks_have_in_common() -> None:
    rng = np.random.default_rng(1)
    tasks = rng.standard_normal((3, 600))
    one, other = (tasks + 0.1 * rng.standard_normal(tasks.shape) for _ in range(2))
    told = paired(one - other)
    assert told["of_tasks"] < 0.25 * half_width(one.ravel())
    expected = stats.ttest_rel(one.ravel(), other.ravel())
    assert told["p_tasks"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (told["difference"] - told["of_tasks"], told["difference"] + told["of_tasks"]) == pytest.approx(
        (low, high)
    )
    assert paired(np.zeros((2, 5))) | {"of_tasks": 0, "of_seeds": 0} == {
        "difference": 0,
        "of_tasks": 0,
        "of_seeds": 0,
        "p_tasks": 1,
        "p_seeds": 1,
        "effect": 0,
        "worst": 0,
        "tasks": 10,
    }
    assert paired(np.array([[1.0, -3.0], [0.0, 2.0]]))["worst"] == 0.5


def test_of_few_tasks_one_may_have_more() -> None:
    assert [carries(0.06, tasks) for tasks in (20, 600, 2000, 6000)] == [False, False, True, True]
    assert [carries(0.2, tasks) for tasks in (20, 600, 2000)] == [False, True, True]


def a_pair(p_tasks: float, p_seeds: float | None, better: str = "a") -> Pair:
    return Pair("x 1-shot", "a", "b", -1.0, 0.1, 0.2, p_tasks, p_seeds, 1.0, 0.0, 1800, 3, better)


def test_one_task_says_nothing_of_others() -> None:
    told = paired(np.array([[0.3]]))
    assert (told["p_tasks"], told["p_seeds"], told["effect"]) == (1.0, None, 0.0)


def test_holms_correction_and_the_verdict() -> None:
    found = corrected([a_pair(0.01, 0.04), a_pair(0.03, None), a_pair(0.04, 0.5)])
    assert [pair.p_tasks for pair in found] == pytest.approx([0.03, 0.06, 0.06])
    assert [pair.p_seeds for pair in found] == [pytest.approx(0.08), None, pytest.approx(0.5)]
    assert verdict(found).endswith(
        "as they are: a over b (x 1-shot). Between methods, as their means over further seeds: none shown."
    )


@pytest.mark.parametrize(("study", "better"), [("table1", "lstm"), ("table2", "maml")])
def test_better_is_lower_error_or_higher_accuracy(study: str, better: str) -> None:
    told = ["shots=5", "method=lstm,maml"]
    for cell in cells(study, told):
        scores = some(10.0 if cell.name == "lstm" else 40.0, cell.cfg.seed)
        stored(cell, scores[: cell.cfg.trainer.num_test_tasks])
    runs = of_study(cells(study, told))
    [pair] = pairs(runs)
    assert pair.better == better
    assert (pair.first, pair.second, pair.seeds) == ("lstm", "maml", 3)
    assert pair.difference == pytest.approx(-30, abs=2)
    assert ranks(runs)[better] == 1


def test_rows_without_a_score_leave_the_ranks_of_the_others() -> None:
    for cell in cells("table1", told := ["shots=5"]):
        if cell.name != "oplstm":
            stored(cell, some(0.04 if cell.name == "lstm" else 0.1, cell.cfg.seed))
    assert ranks(of_study(cells("table1", told))).to_dict() == {"lstm": 1, "maml": 2}


def test_a_report_is_the_same_in_whatever_order_it_is_asked_for() -> None:
    assert title("table1", ["shots=5", "method=lstm", "logger=csv"], False) == "table1 method=lstm shots=5"


# ---------------------------------------------------------------- every study runs
NARROW = {  # where all cells are many, and what is too large for a test
    "table3": ["data=cub"],
    "table4": ["data=cub"],
    "lstm_mini": ["trial=0,129"],
    "lstm_omniglot": ["trial=0,99"],
    "oplstm_mini": ["method.passes=1,10", "method.meta_batch_size=1"],
    "oplstm_omniglot": ["method.passes=1,10", "method.meta_batch_size=1"],
}


@pytest.mark.parametrize("study", sorted(set(studies()) - {"demo"}))
def test_every_study_composes_and_takes_a_step(study: str) -> None:
    """On random images in the shape of its data: the first cell and the last one, which `--cfg job` can show."""
    found: Sequence[Cell] = cells(study, ["seed=0", *NARROW.get(study, [])])
    for cell in (found[0], found[-1]):
        cfg = cell.cfg.copy()
        check(cfg)
        OmegaConf.resolve(cfg.copy())
        assert cfg.study == study
        cfg.method.meta_batch_size = 1
        if cfg.data.name != "sine":
            cfg.data.size = 16
            cfg.data.name = "omniglot" if cfg.data.name == "omniglot" else "mini"
        if cfg.method.name == "lstm":
            cfg.method.hidden = [8]
        source = make_source(cfg) if cfg.data.name == "sine" else random_images(cfg)
        datamodule = make_datamodule(cfg, source)
        learner = make_seeded(cfg, source)
        optimizer = learner.configure_optimizers()
        before = [parameter.clone() for parameter in learner.parameters()]
        learner.losses(next(iter(datamodule.streams["train"])))[0].sum().backward()
        optimizer.step()
        assert any(not old.equal(new) for old, new in zip(before, learner.parameters(), strict=True))


# ---------------------------------------------------------------- random searches
@given(trial=st.integers(0, 1000), search_seed=st.integers(0, 5))
def test_a_trial_is_a_function_of_its_number(trial: int, search_seed: int) -> None:
    root = OmegaConf.create({"study": "a", "search_seed": search_seed, "trial": trial})
    other = OmegaConf.create({"study": "b", "search_seed": search_seed, "trial": trial})
    assert draw("lr", "log", 1e-5, 4e-2, _root_=root) == draw("lr", "log", 1e-5, 4e-2, _root_=root)
    assert draw("lr", "log", 1e-5, 4e-2, _root_=root) != draw("lr", "log", 1e-5, 4e-2, _root_=other)
    assert 1e-5 <= draw("lr", "log", 1e-5, 4e-2, _root_=root) <= 4e-2
    assert 1 <= draw("passes", "int", 1, 14, _root_=root) <= 14
    assert 32 <= draw("units", "log_int", 32, 3200, _root_=root) <= 3200


def test_draws_have_their_distributions() -> None:
    roots = [
        OmegaConf.create({"study": "lstm_sine", "search_seed": 0, "trial": trial}) for trial in range(3000)
    ]
    rates = np.log([draw("lr", "log", 1e-5, 4e-2, _root_=root) for root in roots])
    assert stats.kstest(rates, stats.uniform(np.log(1e-5), np.log(4e3)).cdf).pvalue > 0.001
    passes = np.bincount([draw("passes", "int", 1, 14, _root_=root) for root in roots], minlength=15)
    assert passes[0] == 0
    assert len(passes) == 15
    assert stats.chisquare(passes[1:]).pvalue > 0.001
    units = [draw("units", "choice", [1, 3, 8], _root_=root) for root in roots]
    assert stats.chisquare([units.count(n) for n in (1, 3, 8)]).pvalue > 0.001
    assert abs(np.corrcoef(rates, [draw("passes", "int", 1, 14, _root_=root) for root in roots])[0, 1]) < 0.06


def test_recorded_trials_stay_what_they_are() -> None:
    cfgs = [composed(["search=lstm_sine", f"trial={trial}"]) for trial in (0, 3, 19)]
    assert [
        (list(c.method.hidden), c.method.meta_batch_size, c.method.passes, c.trainer.max_steps) for c in cfgs
    ] == [
        ([40, 40], 1, 13, 70000),
        ([40, 40, 40], 3, 14, 23333),
        ([8], 4, 7, 17500),
    ]
    assert cfgs[0].method.lr == pytest.approx(2.4586558327049278e-05, rel=1e-12)
    assert composed(["search=lstm_sine", "trial=3", "search_seed=1"]).method.lr != cfgs[1].method.lr


# ---------------------------------------------------------------- digits
def test_a_mean_and_its_interval_end_at_the_same_place() -> None:
    assert with_width(0.015312, 0.000661, "mse") == ("0.0153", "0.0007")
    assert with_width(0.16, 0.0123, "mse") == ("0.160", "0.012")
    assert with_width(1234.5, 7.6, "mse") == ("1234", "8")
    assert with_width(0.5, 1e-6, "mse") == ("0.500", "<0.001")
    assert with_width(84.1234, 0.888, "accuracy") == ("84.12", "0.89")


@pytest.mark.parametrize(
    ("mean", "meets"), [(0.0534, True), (0.0538, False), (0.0266, True), (0.0262, False)]
)
def test_the_papers_rounding_parts_no_intervals(mean: float, meets: bool) -> None:
    """Table A1 has 0.04 ± 0.002, which may be anything from 0.035 to 0.045, and from 0.0015 to 0.0025."""
    told = ["method.inputs=prev_target"]
    for cell in cells("tableA1", told):
        scores = some(0.04, cell.cfg.seed)
        stored(cell, mean + (scores - scores.mean()) * 0.006 * 3**0.5 / half_width(scores))
    [of_row] = summarise(of_study(cells("tableA1", told))).values()
    [summary] = of_row.values()
    assert summary.of_tasks == pytest.approx(0.006, rel=0.02)
    assert summary.meets is meets


def test_a_task_that_carries_the_mean_is_named() -> None:
    told = ["shots=5", "method=lstm,maml"]
    for cell in cells("table1", told):
        scores = some(0.04, cell.cfg.seed)
        if cell.name == "maml" and cell.cfg.seed == 0:
            scores[7] = 30.0
        stored(cell, scores)
    of_cell, of_pair = [words for words in report("table1", told)[0].words if "carries" in words]
    assert of_cell.startswith("maml on sine 5-shot: one task of 6,000 carries 11% of the mean")
    assert re.match(r"lstm - maml on sine 5-shot: one task carries (\d+)% of the differences", of_pair)


def test_what_a_run_cost_stands_beside_the_papers() -> None:
    told = ["data=mini", "shots=1", "method=oplstm"]
    for cell in cells("table3", told):
        stored(
            cell,
            10 * some(5.0, cell.cfg.seed)[:600],
            parameters=133182,
            train_tasks=320000,
            tasks_per_second=70.4,
            peak_memory_bytes=2e9,
        )
    tables = report("table3", told)[0].tables
    assert tables["costs: means of the runs [the paper's, on another machine]"].to_numpy().tolist() == [
        ["oplstm", "mini 1-shot", "133,182 [141,187]", "320,000", "1.5 [290.0]", "70", "2,000"]
    ]


def test_a_training_loss_is_a_mean_of_neighbours(tmp_path: Path) -> None:
    rows = "".join(f"{t},{t},train/loss,{t % 2}\n" for t in range(1, 301))
    (tmp_path / "metrics.csv").write_text("tasks,update,metric,value\n" + rows)
    curves = curves_of(str(tmp_path))
    curve = curve_of(curves, "training loss")
    assert curve is not None
    assert curve.iloc[10:].between(0.45, 0.55).all()  # of eleven values in turn 0 and 1
    assert curve_of(curves, "validation") is None
