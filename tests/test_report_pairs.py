"""Which differences between methods are real."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fewshot.report.__main__ import make_report
from fewshot.report.jobs import jobs, runs_of
from fewshot.report.table import corrected, one_task, p_text, paired, pairs, ranks
from fewshot.results.record import half_width
from tests.helpers import evaluated, some, store, store_study

pytestmark = pytest.mark.usefixtures("outputs")


def test_pairing_cancels_what_tasks_have_in_common():
    rng = np.random.default_rng(1)
    tasks = rng.standard_normal((3, 600))
    one, other = (tasks + 0.1 * rng.standard_normal(tasks.shape) for _ in range(2))
    test, expected = paired(one - other, "mse"), stats.ttest_rel(one.ravel(), other.ravel())
    assert test["ci95_tasks"] < 0.25 * half_width(one.ravel())
    assert test["p_tasks"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert [test["difference"], test["ci95_tasks"]] == pytest.approx([(low + high) / 2, (high - low) / 2])
    assert test["ci95_seeds"] == pytest.approx(half_width((one - other).mean(1)))
    equal, single = paired(np.zeros((2, 5)), "mse"), paired(np.array([[0.3]]), "mse")
    assert [equal[name] for name in ("p_tasks", "p_wilcoxon", "p_seeds", "effect")] == [1, 1, 1, 0]
    assert (np.isnan(single["p_tasks"]), single["effect"], np.isnan(single["p_seeds"])) == (True, 0, True)


def test_tasks_won_and_the_median_difference_do_not_follow_one_outlier():
    differences = np.array([[-1.0, -1.0, 0.0, 1.0, 90.0]])
    error, accuracy = paired(differences, "mse"), paired(differences, "accuracy")
    assert (error["tasks_won"], error["median_difference"]) == (pytest.approx(0.5), 0)
    assert (accuracy["tasks_won"], paired(differences - 2, "accuracy")["tasks_won"]) == (0.5, 0.2)
    assert paired(differences - 2, "mse")["tasks_won"] == pytest.approx(0.8)
    assert paired(np.ones((1, 3)), "mse")["p_wilcoxon"] == pytest.approx(0.25)  # of 8 signs
    assert error["p_wilcoxon"] == pytest.approx(stats.wilcoxon(differences[0]).pvalue)
    assert np.isnan(accuracy["p_wilcoxon"])


def test_holms_correction():
    p = {"p_tasks": [0.01, 0.03, 0.04], "p_wilcoxon": [np.nan] * 3, "p_seeds": [0.02, np.nan, 0.5]}
    found = corrected(pd.DataFrame(p))
    assert list(found["p_tasks"]) == pytest.approx([0.03, 0.06, 0.06])
    assert list(found["p_seeds"]) == pytest.approx([0.04, np.nan, 0.5], nan_ok=True)
    assert list(found["significant"].str.split()) == [["tasks", "seeds"], [], []]
    assert [p_text(p) for p in (1e-153, 0.0123, np.nan)] == ["<1e-16", "0.012", ""]


@pytest.mark.parametrize(("study", "better"), [("table1", "lstm"), ("table2", "maml")])
def test_better_is_lower_error_or_higher_accuracy(study, better):
    for job in jobs(study, narrow := ["shots=5", "method=lstm,maml,oplstm"]):
        if job.name != "oplstm":  # a row without a score leaves the ranks of the others
            mean = 10.0 if job.name == "lstm" else 40.0
            store(job, some(mean, job.cfg.seed, job.cfg.trainer.num_test_tasks))
    runs = runs_of(jobs(study, narrow))
    [pair] = pairs(runs).to_dict("records")
    assert (pair["seeds"], pair["significant"].split()) == (3, ["tasks", "seeds"])
    assert pair["p_wilcoxon"] < 0.05 or study == "table2"  # only of errors
    assert pair["tasks_won"] == (pair["first"] == better)
    assert pair["difference"] == pytest.approx(30 if pair["first"] == "maml" else -30, abs=2)
    assert list(ranks(runs)[""]) == [better, "maml" if better == "lstm" else "lstm"]
    assert set(ranks(runs)["cells"]) == {"3"}  # of one column, three seeds
    assert ranks(runs[runs["seed"] == 0]).empty


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
    tables = make_report("table1", narrow).tables
    assert list(tables["in full"]["one task"]) == ["", "11%"]
    assert tables["pairs"]["one task"].str.endswith("%").all()


def test_variants_are_compared_on_the_tests_of_evaluate():
    narrow = ["method=oplstm", "shots=1", "variant=released,paper"]
    for job in store_study("table2", narrow, 80):
        evaluated(job, some(80, job.cfg.seed, 600) - 3 * (job.cfg.variant == "released"))
    report = make_report("table2", [*narrow, "queries=15"])
    [pair] = pairs(report.runs).to_dict("records")
    assert (pair["first"], pair["column"], pair["seeds"]) == ("oplstm variant=released", "omniglot 1-shot", 3)
    assert (pair["difference"], pair["ci95_seeds"]) == (pytest.approx(-3), pytest.approx(0, abs=1e-9))
    assert report.runs["paper"].isna().all()  # it has one query
    assert report.title == "table2 method=oplstm queries=15 shots=1 variant=released,paper"
    report = make_report("table2", narrow)  # of 1 and of 15 queries, which are never compared
    columns = {"omniglot 1-shot, test_queries=1", "omniglot 1-shot, test_queries=15"}
    assert set(report.runs["column"]) == columns
    assert "pairs" not in report.tables
