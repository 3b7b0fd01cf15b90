"""Reports: the paper's tables and figures from runs that are there, missing, reduced or of something else."""

import json
import re
import shlex
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats

from fewshot import Task
from fewshot.config.checks import check
from fewshot.config.compose import choices_of, composed
from fewshot.config.resolvers import draw
from fewshot.config.run_id import run_folder
from fewshot.errors import exit_code
from fewshot.report import load
from fewshot.report.__main__ import main, report
from fewshot.report.jobs import Job, jobs, title
from fewshot.report.pairs import corrected, paired, pairs, ranks
from fewshot.report.runs import runs_of
from fewshot.report.table import one_task, score, summarise
from fewshot.results.paper import read_csv
from fewshot.results.record import name_of_test
from fewshot.results.statistics import half_width
from fewshot.training.build import make_learner
from tests.conftest import episode
from tests.offline import history, records, summary

pytestmark = pytest.mark.usefixtures("composed_once")

TASKS = 2000
LSTM = ["shots=5", "method=lstm"]  # three jobs of table1


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def some(mean: float, seed: int, tasks: int = TASKS) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, mean / 2, tasks)


def write_scores(path: Path, scores: np.ndarray) -> None:
    path.write_text("task,score\n" + "".join(f"{n},{score!r}\n" for n, score in enumerate(scores.tolist())))


def store(job: Job, scores: np.ndarray | None = None, status: str = "finished", **other: Any) -> None:
    """A run's folder as train.py leaves it, as far as a report reads it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    result = job.tests[0] | {
        "status": status,
        "seed": job.cfg.seed,
        "metric": "mse" if job.cfg.data.name == "sine" else "accuracy",
        "bn": "none",
    }
    result |= {"parameters": 20201, "train_seconds": 90.0, "best_step": 7, "mean": None, "tasks": None}
    if scores is not None:
        result |= {"mean": float(scores.mean()), "ci95": 0.1, "tasks": len(scores)}
        result["best_validation"] = float(scores[:10].mean())
        write_scores(job.folder / "test_scores.csv", scores)
    (job.folder / "result.json").write_text(json.dumps(result | other))
    curve = [f"{t},{t},val/{result['metric']},{5 / (1 + t)}\n" for t in range(0, 5000, 1000)]
    (job.folder / "metrics.csv").write_text("tasks,step,metric,value\n" + "".join(curve))


def store_study(study: str, overrides: list[str], mean: float = 0.04, **other: Any) -> list[Job]:
    found = jobs(study, overrides)
    for job in found:
        store(job, some(mean, job.cfg.seed, job.cfg.trainer.num_test_tasks), **other)
    return found


def evaluated(job: Job, scores: np.ndarray, data: str | None = None, queries: int = 15, **other: Any) -> Path:
    """What evaluate.py adds to a folder, as far as a report reads it."""
    result = json.loads((job.folder / "result.json").read_text()) | {"run_status": "finished"}
    result |= {"data": data or job.cfg.data.name, "test_queries": queries, "tasks": len(scores)}
    result |= {"mean": scores.mean()} | other
    path = job.folder / "evaluations" / f"{name_of_test(result, result['data'])}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result))
    write_scores(path.with_suffix(".csv"), scores)
    return path


def cell(runs: pd.DataFrame, name: str, column: str) -> pd.Series:
    return summarise(runs).set_index(["name", "column"]).loc[(name, column)]


# ---------------------------------------------------------------- the jobs of a study
def test_the_jobs_of_a_table_are_its_methods_shots_and_seeds(outputs):
    found = jobs("table1")
    assert len(found) == len({job.folder for job in found}) == 27
    kinds = {(job.cfg.method.name, job.cfg.shots, job.cfg.seed) for job in found}
    assert kinds == set(product(("lstm", "maml", "oplstm"), (5, 10, 20), (1337, 0, 42)))
    assert all(outputs in job.folder.parents for job in found)


def test_settings_narrow_a_study_as_they_do_a_multirun():
    narrow = ["method=oplstm,protonet", "seed=0", "shots=1"]
    found = jobs("table2", [*narrow, "variant=paper"])
    names = [(job.name, job.cfg.seed, job.cfg.shots, job.cfg.variant) for job in found]
    assert names == [("oplstm", 0, 1, "paper"), ("protonet", 0, 1, "paper")]
    quick = jobs("table2", [*narrow, "profile=quick"])
    assert quick[0].cfg.trainer.max_steps == 2000
    assert not {job.folder for job in quick} & {job.folder for job in jobs("table2", narrow)}
    assert [job.cfg.seed for job in jobs("table1", ["method=lstm", "shots=5,5", "seed=0,0,42"])] == [0, 42]
    assert title("table1", [*LSTM, "logger=csv"]) == "table1 method=lstm shots=5"


@pytest.mark.slow
@pytest.mark.parametrize("study", ["table1", "table2", "table4", "tableA1", "figure5", "figure5-omniglot"])
def test_every_job_that_the_paper_has_finds_its_number(study):
    runs = runs_of(jobs(study, ["seed=0"] + ["method=lstm,sap"] * (study == "table4")))
    unknown = runs.loc[runs["paper"].isna(), ["method", "trained_on", "data"]]
    without = set(unknown.itertuples(index=False, name=None))
    assert without == ({("lstm", "cub", "cub"), ("lstm", "cub", "mini")} if study == "table4" else set())
    if study.startswith("table"):
        assert (runs["paper"].isna() == runs["paper_ci95"].isna()).all()
    if study in ("table2", "table4"):  # Tables B4 to B6
        assert (runs["paper"].isna() == runs["paper_seeds_ci95"].isna()).all()
    assert runs_of(jobs("lstm_sine", ["trial=0,1"]))[["paper", "paper_parameters"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("settings", "reduced"),
    [
        ("trainer.max_steps=35000 method.meta_batch_size=2", False),  # 70 000 tasks, as the paper has
        ("trainer.max_steps=34999 method.meta_batch_size=1", False),  # more updates than the paper's 17 500
        ("trainer.max_steps=17499", True),
        ("trainer.num_val_tasks=9", True),
    ],
)
def test_a_reduced_run_is_known_by_its_settings(settings, reduced):
    assert {job.reduced for job in jobs("table1", [*LSTM, *settings.split()])} == {reduced}


# ---------------------------------------------------------------- a table
def test_a_table_holds_ours_the_papers_and_both_intervals():
    for job in jobs("table1", ["shots=5"]):
        if job.name == "lstm":
            store(job, some(0.04, job.cfg.seed))
        if job.name == "maml" and job.cfg.seed == 0:
            store(job, some(0.4, 0))
        if job.name == "oplstm":
            store(job, status="timeout")
    said, runs, _ = report("table1", ["shots=5"])
    lstm = cell(runs, "lstm", "sine 5-shot")
    scores = np.array([some(0.04, seed) for seed in (1337, 0, 42)])
    assert lstm["mean"] == pytest.approx(scores.mean())
    assert lstm["ci95_tasks"] == pytest.approx(1.96 * scores.std(ddof=1) / scores.size**0.5, rel=1e-3)
    assert lstm["ci95_seeds"] == pytest.approx(4.3027 * scores.mean(1).std(ddof=1) / 3**0.5, rel=1e-3)
    assert (lstm["paper"], lstm["paper_ci95"]) == (0.0406, 0.002)
    shown = next(iter(said.tables.values())).set_index("")["sine 5-shot"]
    assert re.fullmatch(r"0\.0\d+ ± 0\.00\d+ \[0\.0406 ± 0\.002\]", shown["lstm"])
    assert "(1/3) [0.177" in shown["maml"]
    assert shown["oplstm"].startswith("- [0.105")


def test_reduced_runs_are_marked_and_never_stand_in_a_full_table():
    store_study("table1", ["profile=quick", *LSTM])
    [quick] = next(iter(report("table1", ["profile=quick", *LSTM])[0].tables.values()))["sine 5-shot"]
    [full] = next(iter(report("table1", LSTM)[0].tables.values()))["sine 5-shot"]  # of missing runs
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
    assert cell(runs_of(found), "lstm", "sine 5-shot")["seeds"] == 1


def test_further_tests_are_those_of_finished_runs():
    """Table 4's: what evaluate.py, or the run itself, stored of a test on other data, of the best state."""
    narrow = ["data=mini", "method=oplstm", "shots=1"]
    first, second, third = store_study("table4", narrow, 50)
    store(third, status="timeout")
    for job in (first, second):
        evaluated(job, some(40, job.cfg.seed, 600), "cub", device="another one")
    _, runs, _ = report("table4", narrow)
    assert runs["device"].dropna().eq("another one").sum() == 2
    seen = cell(runs, "oplstm", "mini → cub 1-shot")
    assert (seen["seeds"], seen["status"], seen["paper"]) == (2, "timeout", 42.33)
    assert seen["mean"] == pytest.approx(np.mean([some(40, seed, 600) for seed in (1337, 0)]))
    evaluated(first, some(40, 0, 600), "cub", run_status="unfinished")  # of a state before the run's last
    shutil.rmtree(second.folder / "evaluations")
    runs = runs_of(jobs("table4", narrow))
    assert cell(runs, "oplstm", "mini → cub 1-shot")["status"] == "timeout, untested"


def test_variants_are_compared_on_the_tests_of_evaluate():
    narrow = ["method=oplstm", "shots=1", "variant=released,paper"]
    for job in store_study("table2", narrow, 80):
        evaluated(job, some(80, job.cfg.seed, 600) - 3 * (job.cfg.variant == "released"))
    said, runs, _ = report("table2", [*narrow, "queries=15"])
    [pair] = pairs(runs).to_dict("records")
    assert (pair["first"], pair["column"], pair["seeds"]) == ("oplstm variant=released", "omniglot 1-shot", 3)
    assert (pair["difference"], pair["ci95_seeds"]) == (pytest.approx(-3), pytest.approx(0, abs=1e-9))
    assert runs["paper"].isna().all()  # it has one query
    assert said.title == "table2 method=oplstm queries=15 shots=1 variant=released,paper"
    said, runs, _ = report("table2", narrow)  # of 1 and of 15 queries, which are never compared
    assert {"omniglot 1-shot, test_queries=1", "omniglot 1-shot, test_queries=15"} == set(runs["column"])
    assert "pairs" not in said.tables


@pytest.mark.parametrize(
    ("study", "overrides", "details"),
    [
        ("table1", ["variant=released,paper"], ["sign=1", "sign=-1"]),
        ("table2", ["data.ways=5,20"], ["ways=5", "ways=20"]),
        ("table2", ["trainer.num_test_tasks=100,600"], ["tasks=100", "tasks=600"]),
        ("table2", ["data=folder", "data.path={0}/a,{0}/b"], ["path={0}/a", "path={0}/b"]),
    ],
)
def test_only_equal_tasks_share_a_column(study, overrides, details, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    narrow = [setting.format(tmp_path) for setting in [*overrides, "method=maml", "shots=5", "seed=0"]]
    columns = {column.partition(", ")[2] for column in runs_of(jobs(study, narrow))["column"]}
    assert columns == {detail.format(tmp_path) for detail in details}


def test_a_score_beside_the_papers():
    line = {"metric": "mse", "status": "", "seeds": 1, "jobs": 3, "mean": 0.015312, "ci95_tasks": 0.000661}
    line |= {"reduced": True, "paper": 0.0141, "paper_ci95": 0}
    assert score(line) == "0.0153 ± 0.00066* (1/3) [0.0141 ± <0.0005]"
    line |= {"metric": "accuracy", "mean": 84.1234, "ci95_tasks": 0.888, "reduced": False, "paper": np.nan}
    assert score(line | {"paper_ci95": np.nan, "seeds": 3}) == "84.12 ± 0.89"


def test_what_a_run_cost():
    narrow = ["data=mini", "shots=1", "method=oplstm"]
    costs = {"parameters": 133182, "train_tasks": 320000, "tasks_per_second": 70.4, "peak_memory_bytes": 2e9}
    store_study("table3", narrow, 50, **costs)
    [shown] = report("table3", narrow)[0].tables["costs"].to_numpy().tolist()
    assert shown == ["oplstm", "mini 1-shot", "133,182", "141,187", "320,000", "1.5", "290", "70", "2,000"]


# ---------------------------------------------------------------- figures
def test_figure_6_stands_beside_the_papers_values():
    """Of measures that grow by .01 in 1 000 updates, and are .3 more in one run."""
    for job in store_study("figure6", [], 50):
        rows = ["tasks,step,metric,value", "0,0,val/accuracy,20"]
        measures = read_csv("paper_figure6.csv")["measure"].unique()
        for update, measure in product(range(0, 80_001, 2_500), measures):
            value = update / 100_000 + (job.cfg.seed == 42) * 0.3
            rows.append(f"{4 * update},{update},similarity_released/{measure},{value}")
        (job.folder / "metrics.csv").write_text("\n".join(rows))
    cosine, _ = report("figure6")[0].figures["figure6-similarity"].axes
    mean, paper = cosine.lines[0].get_xydata(), cosine.lines[1].get_xydata()
    assert mean[12].tolist() == pytest.approx([120_000, 0.4])  # .3 + .3 / 3
    assert paper.tolist() == [[0, 0], [10_000, 0.96], [120_000, 0.8], [320_000, 0.94]]


def test_a_figure_by_shots_has_the_papers_line_and_no_error_below_zero():
    for job in jobs("figure5", narrow := ["method.support_mode=set"]):
        store(job, some(0.01, 0) * 10 ** (job.cfg.seed % 3))
    axes = report("figure5", narrow)[0].figures["figure5-shots"].axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[5, 10, 20, 30, 40, 50]] * 2
    assert axes.dataLim.y0 < 0 == axes.get_ylim()[0]


# ---------------------------------------------------------------- the program
def test_everything_is_written_and_printed(outputs, capsys):
    for job in jobs("table1", ["shots=5"]):
        store(job, some(0.04 if job.name == "lstm" else 0.1, job.cfg.seed), status="finished")
    assert main(["table1", "logger=csv"]) == 0
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
    raw, cells = pd.read_csv(folder / "in_full.csv"), summarise(report("table1")[1])
    np.testing.assert_allclose(raw["mean"], cells["mean"], rtol=1e-12)


@pytest.mark.slow
def test_a_report_is_a_run_of_wandb(outputs, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    store_study("table1", LSTM)
    for _ in range(2):  # the same run both times
        assert main(["table1", *LSTM]) == 0
    [folder] = (outputs / "reports").iterdir()
    assert len({record.run.run_id for record in records(folder) if record.HasField("run")}) == 1
    logged = {name.split(".")[0] for row in history(folder) for name in row}
    assert {"table", "in full", "table1-scores", "table1-validation"} <= logged
    assert "Holm" in str(summary(folder))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table9"], "table1"),  # among the choices
        (["table1", "method=foo"], "foo"),
        (["table1", "queries=a"], "queries=a"),
        (["demo"], "demo is a single run"),
        (["table1", "data=sine,omniglot", "method=lstm"], "errors on sine and accuracies do not fit"),
        (["lstm_sine", "shots=5,10", "trial=0"], "trials are ranked within one method, data, shots and"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, capsys):
    assert exit_code(main, arguments) == 2
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
    assert all(len(scores) == TASKS for scores in frame["scores"])
    assert set(frame.loc[frame["seed"] == 0, "folder"]) == {str(job.folder)}
    assert frame.loc[frame["shots"] == 5, "paper"].eq(0.0406).all()
    assert frame.loc[frame["shots"] == 10, "paper"].isna().all()  # it was trained for 5 shots


# ---------------------------------------------------------------- a search
def test_trials_are_ranked_by_validation():
    found, best = jobs("lstm_sine", ["trial=range(0,6)"]), (0.5, 0.1, 0.3, 0.2, 0.4)
    for trial, (job, validation) in enumerate(zip(found, best, strict=False)):
        store(job, some(validation, trial), best_validation=validation)
    said, _, _ = report("lstm_sine", ["trial=range(0,6)"])
    [table] = said.tables.values()
    assert list(table["trial"]) == ["1", "3", "2", "4", "0"]
    assert list(table["lr"]) == [f"{found[trial].cfg.method.lr:.3g}" for trial in (1, 3, 2, 4, 0)]
    assert said.notes[0] == "5 of 6 trials have a result"
    assert said.notes[2] == "python train.py search=lstm_sine trial=1 seed=0"
    assert list(said.figures) == ["lstm_sine-trials"]
    alone = report("lstm_sine", ["trial=3", "seed=0"])[0].tables["trials"]  # as another machine runs it
    assert list(alone["trial"]) == ["3"]


@pytest.mark.parametrize(
    ("study", "narrow"),
    [("maml_sine", ["trial=3,4"]), ("oplstm_mini", ["method.passes=1,3", "method.meta_batch_size=4"])],
)
def test_the_command_of_a_job_is_the_job(study, narrow):
    for job in jobs(study, narrow)[-2:]:
        assert run_folder(composed(shlex.split(job.command)[2:])) == job.folder


def test_a_trial_is_a_function_of_its_number_and_of_the_right_distribution():
    roots = [OmegaConf.create({"study": "x", "search_seed": 0, "trial": trial}) for trial in range(3000)]
    rates = np.log([draw("lr", "log", 1e-5, 4e-2, _root_=root) for root in roots])
    assert stats.kstest(rates, stats.uniform(np.log(1e-5), np.log(4e3)).cdf).pvalue > 0.001
    passes = [draw("passes", "int", 1, 14, _root_=root) for root in roots]
    assert stats.chisquare(np.bincount(passes)[1:]).pvalue > 0.001
    assert max(passes) == 14
    assert abs(np.corrcoef(rates, passes)[0, 1]) < 0.06
    units = [draw("units", "choice", [1, 3, 8], _root_=root) for root in roots]
    assert stats.chisquare([units.count(n) for n in (1, 3, 8)]).pvalue > 0.001


def test_recorded_trials_stay_what_they_are():
    cfgs = [composed(["search=lstm_sine", f"trial={trial}"]) for trial in (0, 3, 19)]
    methods = [cfg.method for cfg in cfgs]
    drawn = [(list(method.hidden), method.meta_batch_size, method.passes) for method in methods]
    assert drawn == [([40, 40], 1, 13), ([40, 40, 40], 3, 14), ([8], 4, 7)]
    assert [cfg.trainer.max_steps for cfg in cfgs] == [70000, 23333, 17500]
    assert cfgs[0].method.lr == pytest.approx(2.4586558327049278e-05, rel=1e-12)
    assert composed(["search=lstm_sine", "trial=3", "search_seed=1"]).method.lr != cfgs[1].method.lr


# ---------------------------------------------------------------- which differences are real
def test_pairing_cancels_what_tasks_have_in_common():
    rng = np.random.default_rng(1)
    tasks = rng.standard_normal((3, 600))
    one, other = (tasks + 0.1 * rng.standard_normal(tasks.shape) for _ in range(2))
    test, expected = paired(one - other), stats.ttest_rel(one.ravel(), other.ravel())
    assert test["ci95_tasks"] < 0.25 * half_width(one.ravel())
    assert test["p_tasks"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert [test["difference"], test["ci95_tasks"]] == pytest.approx([(low + high) / 2, (high - low) / 2])
    equal, single = paired(np.zeros((2, 5))), paired(np.array([[0.3]]))
    assert (equal["p_tasks"], equal["p_seeds"], equal["effect"]) == (1, 1, 0)
    assert (np.isnan(single["p_tasks"]), single["effect"], np.isnan(single["p_seeds"])) == (True, 0, True)


def test_a_task_that_has_much_of_the_error_is_marked():
    scores = np.ones(2000)
    scores[3] = 2000 * 0.06
    assert one_task(scores, "mse") == pytest.approx(0.0566, abs=1e-3)
    assert np.isnan(one_task(scores[:20], "accuracy"))
    assert np.isnan(one_task(np.array([1.0, 1.0, 1.0]), "mse"))  # of few tasks one may have more
    found = store_study("table1", narrow := ["shots=5", "method=lstm,maml"])
    scores = some(0.04, 0)
    scores[7] = 30.0
    store(next(job for job in found if job.name == "maml" and job.cfg.seed == 0), scores)
    tables = report("table1", narrow)[0].tables
    assert list(tables["in full"]["one task"]) == ["", "11%"]
    assert tables["pairs"]["one task"].str.endswith("%").all()


def test_holms_correction():
    found = corrected(pd.DataFrame({"p_tasks": [0.01, 0.03, 0.04], "p_seeds": [0.02, np.nan, 0.5]}))
    assert list(found["p_tasks"]) == pytest.approx([0.03, 0.06, 0.06])
    assert list(found["p_seeds"]) == pytest.approx([0.04, np.nan, 0.5], nan_ok=True)
    assert list(found["significant"].str.split()) == [["tasks", "seeds"], [], []]


@pytest.mark.parametrize(("study", "better"), [("table1", "lstm"), ("table2", "maml")])
def test_better_is_lower_error_or_higher_accuracy(study, better):
    for job in jobs(study, narrow := ["shots=5", "method=lstm,maml,oplstm"]):
        if job.name != "oplstm":  # a row without a score leaves the ranks of the others
            mean = 10.0 if job.name == "lstm" else 40.0
            store(job, some(mean, job.cfg.seed, job.cfg.trainer.num_test_tasks))
    runs = runs_of(jobs(study, narrow))
    [pair] = pairs(runs).to_dict("records")
    assert (pair["seeds"], pair["significant"].split()) == (3, ["tasks", "seeds"])
    assert pair["difference"] == pytest.approx(30 if pair["first"] == "maml" else -30, abs=2)
    assert list(ranks(runs)[""]) == [better, "maml" if better == "lstm" else "lstm"]


# ---------------------------------------------------------------- every study runs
NARROW = {  # where all jobs are many, and what is too large for a test
    "table3": ["data=cub"],
    "table4": ["data=cub"],
    "lstm_mini": ["trial=0,129"],
    "lstm_omniglot": ["trial=0,99"],
    "oplstm_mini": ["method.passes=1,10", "method.meta_batch_size=1"],
    "oplstm_omniglot": ["method.passes=1,10", "method.meta_batch_size=1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("study", sorted({*choices_of("experiment"), *choices_of("search")} - {"demo"}))
def test_every_study_composes_and_takes_a_step(study):
    """The first job and the last one, on random data of its shape."""
    found = jobs(study, ["seed=0", *NARROW.get(study, [])])
    for job in (found[0], found[-1]):
        cfg = job.cfg.copy()
        check(cfg)
        assert cfg.study == study
        task = Task((1,), 1, True)
        if cfg.data.name != "sine":
            task = Task((cfg.data.channels, 16, 16), cfg.data.ways, False)
        if cfg.method.name == "lstm":
            cfg.method.hidden = [8]
        learner = make_learner(cfg, task).double()
        learner.losses(episode(learner, tasks=1))[0].sum().backward()
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in learner.parameters())
