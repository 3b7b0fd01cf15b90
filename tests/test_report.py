"""Reports: the paper's tables and figures from runs that are there, missing, reduced or of something else."""

import re
import shutil
from itertools import product

import numpy as np
import pandas as pd
import pytest

from fewshot.errors import exit_code
from fewshot.report import load
from fewshot.report.__main__ import main, make_report
from fewshot.report.jobs import jobs, name_of_report, runs_of
from fewshot.report.table import summarise
from fewshot.results.paper import read_csv
from tests.helpers import evaluated, some, store, store_study
from tests.offline import history, records, summary

pytestmark = pytest.mark.usefixtures("outputs")

LSTM = ["shots=5", "method=lstm"]  # three jobs of table1


def cell(runs, column):
    """The only row of a column."""
    return summarise(runs).set_index("column").loc[column]


def test_a_table_holds_ours_the_papers_and_both_intervals():
    for job in jobs("table1", ["shots=5"]):
        if job.name == "lstm":
            store(job, some(0.04, job.cfg.seed))
        if job.name == "maml" and job.cfg.seed == 0:
            store(job, some(0.4, 0))
        if job.name == "oplstm":
            store(job, status="timeout")
    report = make_report("table1", ["shots=5"])
    lstm = cell(report.runs[report.runs["name"] == "lstm"], "sine 5-shot")
    scores = np.array([some(0.04, seed) for seed in (1337, 0, 42)])
    assert lstm["mean"] == pytest.approx(scores.mean())
    assert lstm["ci95_tasks"] == pytest.approx(1.96 * scores.std(ddof=1) / scores.size**0.5, rel=1e-3)
    assert lstm["ci95_seeds"] == pytest.approx(4.3027 * scores.mean(1).std(ddof=1) / 3**0.5, rel=1e-3)
    assert (lstm["paper"], lstm["paper_ci95"]) == (0.0406, 0.002)
    shown = report.tables["table"].set_index("")["sine 5-shot"]
    assert re.fullmatch(r"0\.0\d+ ± 0\.00\d+, ± 0\.0\d+ \[0\.0406 ± 0\.002\]", shown["lstm"])
    assert "(1/3) [0.177" in shown["maml"]
    assert shown["oplstm"].startswith("- [0.105")


def test_reduced_runs_are_marked_and_never_stand_in_a_full_table():
    store_study("table1", ["profile=quick", *LSTM])
    [quick] = make_report("table1", ["profile=quick", *LSTM]).tables["table"]["sine 5-shot"]
    [full] = make_report("table1", LSTM).tables["table"]["sine 5-shot"]  # of missing runs
    assert quick.endswith("*")  # and without the paper's
    assert full == "· [0.0406 ± 0.002]"


def test_status_says_why_a_run_has_no_score():
    found = store_study("table1", narrow := ["shots=5", "method=lstm", "seed=0,1,2,3"])
    (found[1].folder / "result.json").unlink()
    (found[1].folder / "last.ckpt").touch()
    store(found[2], some(0.04, 0), config_diff={"trainer.max_steps": 10})
    store(found[3], status="diverged")
    statuses = runs_of(jobs("table1", narrow)).set_index("folder")["status"]
    named = dict(zip(("finished", "unfinished", "untested", "diverged"), found, strict=True))
    assert statuses.to_dict() == {str(job.folder): status for status, job in named.items()}
    assert cell(runs_of(found), "sine 5-shot")["seeds"] == 1


def test_further_tests_are_those_of_finished_runs():
    """Table 4's: what evaluate.py, or the run itself, stored of a test on other data, of the best state."""
    narrow = ["data=mini", "method=oplstm", "shots=1"]
    first, second, third = store_study("table4", narrow, 50)
    store(third, status="timeout")
    for job in (first, second):
        evaluated(job, some(40, job.cfg.seed, 600), "cub", device="another one")
    runs = make_report("table4", narrow).runs
    assert runs["device"].dropna().eq("another one").sum() == 2
    seen = cell(runs, "mini → cub 1-shot")
    assert (seen["seeds"], seen["status"], seen["paper"]) == (2, "timeout", 42.33)
    assert seen["mean"] == pytest.approx(np.mean([some(40, seed, 600) for seed in (1337, 0)]))
    evaluated(first, some(40, 0, 600), "cub", run_status="unfinished")  # of a state before the run's last
    shutil.rmtree(second.folder / "evaluations")
    runs = runs_of(jobs("table4", narrow))
    assert cell(runs, "mini → cub 1-shot")["status"] == "timeout, untested"


def test_what_a_run_cost():
    narrow = ["data=mini", "shots=1", "method=oplstm"]
    costs = {"parameters": 133182, "train_tasks": 320000, "tasks_per_second": 70.4, "peak_memory_bytes": 2e9}
    store_study("table3", narrow, 50, **costs)
    [shown] = make_report("table3", narrow).tables["costs"].to_numpy().tolist()
    assert shown == ["oplstm", "mini 1-shot", "133,182", "141,187", "320,000", "1.5", "290", "70", "2,000"]


def test_figure_6_stands_beside_the_papers_values():
    for job in store_study("figure6", [], 50):
        rows = ["tasks,step,metric,value", "0,0,val/accuracy,20"]
        measures = read_csv("paper_figure6.csv")["measure"].unique()
        for update, measure in product(range(0, 80_001, 2_500), measures):
            value = update / 100_000 + (job.cfg.seed == 42) * 0.3
            rows.append(f"{4 * update},{update},similarity_released/{measure},{value}")
        (job.folder / "metrics.csv").write_text("\n".join(rows))
    cosine, _ = make_report("figure6").figures["figure6-similarity"].axes
    mean, paper = cosine.lines[0].get_xydata(), cosine.lines[1].get_xydata()
    assert mean[12].tolist() == pytest.approx([120_000, 0.4])  # .3 + .3 / 3
    assert paper.tolist() == [[0, 0], [10_000, 0.96], [120_000, 0.8], [320_000, 0.94]]


def test_a_figure_by_shots_has_the_papers_line_and_no_error_below_zero():
    for job in jobs("figure5", narrow := ["method.support_mode=set"]):
        store(job, some(0.01, 0) * 10 ** (job.cfg.seed % 3))
    axes = make_report("figure5", narrow).figures["figure5-shots"].axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[5, 10, 20, 30, 40, 50]] * 2
    assert axes.dataLim.y0 < 0 == axes.get_ylim()[0]


def test_everything_is_written_and_printed(outputs, capsys):
    for job in jobs("table1", ["shots=5"]):
        store(job, some(0.04 if job.name == "lstm" else 0.1, job.cfg.seed))
    main("table1", ["logger=csv"])
    folder = outputs / "reports" / "table1"
    printed = capsys.readouterr().out
    assert (folder / "report.md").read_text().startswith(printed.rpartition("\n\n")[0])
    assert "[0.0406 ± 0.002]" in printed
    names = {path.name for path in folder.iterdir()}
    assert {"report.tex", "runs.csv", "table1-scores.png", "table1-validation.pdf"} <= names
    page = (folder / "report.html").read_text()
    assert page.count("<table") == page.count("</table>") == 5
    assert (folder / "report.tex").read_text().count(r"\toprule") == 5
    assert {"p_seeds", "ci95_tasks"} <= set(pd.read_csv(folder / "pairs.csv"))
    exact = summarise(make_report("table1").runs)["mean"]
    np.testing.assert_allclose(pd.read_csv(folder / "in_full.csv")["mean"], exact, rtol=1e-12)
    shutil.rmtree(outputs / "sine")  # a report without runs keeps nothing of this one
    main("table1", ["logger=csv"])
    names = {path.name for path in folder.iterdir()}
    assert names == {"report.md", "report.tex", "report.html", "runs.csv", "in_full.csv"}


def test_reports_with_long_titles_have_folders_of_their_own():
    names = [name_of_report(f"table1 {'data.path=/a/long/path ' * 8} shots={shots}") for shots in (1, 5)]
    assert names[0] != names[1]
    assert max(map(len, names)) == 150


@pytest.mark.slow
def test_a_report_is_a_run_of_wandb(outputs, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    store_study("table1", narrow := ["shots=5", "method=lstm,maml"])
    for _ in range(2):  # the same run both times
        main("table1", narrow)
    [folder] = (outputs / "reports").iterdir()
    assert len({record.run.run_id for record in records(folder) if record.HasField("run")}) == 1
    logged = {name.split(".")[0] for row in history(folder) for name in row}
    assert {"table", "in full", "table1-scores", "table1-validation"} <= logged
    assert "Holm" in str(summary(folder))


@pytest.mark.parametrize(
    ("study", "overrides", "words"),
    [
        ("table9", [], "table1"),  # among the choices
        ("table1", ["method=foo"], "foo"),
        ("table1", ["queries=a"], "queries=a"),
        ("demo", [], "demo is a single run"),
        ("table1", ["data=sine,omniglot", "method=lstm"], "errors and accuracies do not fit"),
        ("lstm_sine", ["shots=5,10", "trial=0"], "trials are ranked within one method, data, shots and"),
    ],
)
def test_a_mistake_is_one_line(study, overrides, words, capsys):
    assert exit_code(main, study, overrides) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


def test_all_runs_of_a_folder_are_one_frame(outputs):
    job, *_ = store_study("table1", ["shots=5", "method=lstm", "seed=0,42"])
    evaluated(job, some(0.04, 1), queries=50, shots=10)
    evaluated(job, some(0.04, 1), queries=50, shots=20, best_step=1)  # of an earlier state
    frame = load(outputs)
    assert sorted(zip(frame["seed"], frame["shots"], strict=True)) == [(0, 5), (0, 10), (42, 5)]
    assert all(len(scores) == 2000 for scores in frame["scores"])
    assert set(frame.loc[frame["seed"] == 0, "folder"]) == {str(job.folder)}
    assert frame.loc[frame["shots"] == 5, "paper"].eq(0.0406).all()
    assert frame.loc[frame["shots"] == 10, "paper"].isna().all()  # it was trained for 5 shots
