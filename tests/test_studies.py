"""The jobs of a study, and the trials of a search."""

import shlex
from itertools import product

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats

from fewshot import Task
from fewshot.config.compose import choices_of, composed, draw
from fewshot.config.run_id import run_folder
from fewshot.config.settings import check
from fewshot.report.__main__ import make_report
from fewshot.report.jobs import jobs, runs_of, title
from fewshot.training.build import make_learner
from tests.conftest import episode
from tests.helpers import some, store

pytestmark = pytest.mark.usefixtures("outputs")


def test_the_jobs_of_a_table_are_its_methods_shots_and_seeds_or_narrowed_as_a_multirun(outputs):
    found = jobs("table1")
    assert len(found) == len({job.folder for job in found}) == 27
    kinds = {(job.cfg.method.name, job.cfg.shots, job.cfg.seed) for job in found}
    assert kinds == set(product(("lstm", "maml", "oplstm"), (5, 10, 20), (1337, 0, 42)))
    assert all(outputs in job.folder.parents for job in found)
    narrow = ["method=oplstm,protonet", "seed=0", "shots=1"]
    found = jobs("table2", [*narrow, "variant=paper"])
    names = [(job.name, job.cfg.seed, job.cfg.shots, job.cfg.variant) for job in found]
    assert names == [("oplstm", 0, 1, "paper"), ("protonet", 0, 1, "paper")]
    quick = jobs("table2", [*narrow, "profile=quick"])
    assert quick[0].cfg.trainer.max_steps == 2000
    assert not {job.folder for job in quick} & {job.folder for job in jobs("table2", narrow)}
    assert [job.cfg.seed for job in jobs("table1", ["method=lstm", "shots=5,5", "seed=0,0,42"])] == [0, 42]
    assert title("table1", ["shots=5", "method=lstm", "logger=csv"]) == "table1 method=lstm shots=5"


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


def test_a_reduced_run_is_known_by_its_settings():
    """The paper trains on 70 000 tasks in 17 500 updates; neither may be less."""
    for settings, reduced in (
        ("trainer.max_steps=35000 method.meta_batch_size=2", False),
        ("trainer.max_steps=34999 method.meta_batch_size=1", False),
        ("trainer.max_steps=17499", True),
        ("trainer.num_val_tasks=9", True),
    ):
        [job] = jobs("table1", ["shots=5", "method=lstm", "seed=0", *settings.split()])
        assert job.tests[0]["reduced"] == reduced


@pytest.mark.parametrize(
    ("study", "overrides", "details"),
    [
        ("table1", ["variant=released,paper"], {"sign=1", "sign=-1"}),
        ("table2", ["data.ways=5,20"], {"ways=5", "ways=20"}),
        ("table2", ["trainer.num_test_tasks=100,600"], {"tasks=100", "tasks=600"}),
        ("table2", ["data=folder", "data.path=a,b"], {"path=a", "path=b"}),
    ],
)
def test_only_equal_tasks_share_a_column(study, overrides, details, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
    runs = runs_of(jobs(study, [*overrides, "method=maml", "shots=5", "seed=0"]))
    assert {column.partition(", ")[2] for column in runs["column"]} == details


@pytest.mark.parametrize(
    ("study", "narrow"),
    [("maml_sine", ["trial=3,4"]), ("oplstm_mini", ["method.passes=1,3", "method.meta_batch_size=4"])],
)
def test_the_command_of_a_job_is_the_job(study, narrow):
    for job in jobs(study, narrow)[-2:]:
        assert run_folder(composed(shlex.split(job.command)[2:])) == job.folder


def test_trials_are_ranked_by_validation():
    found, best = jobs("lstm_sine", ["trial=range(0,6)"]), (0.5, 0.1, 0.3, 0.2, 0.4)
    for trial, (job, validation) in enumerate(zip(found, best, strict=False)):
        store(job, some(validation, trial), best_validation=validation)
    report = make_report("lstm_sine", ["trial=range(0,6)"])
    [table] = report.tables.values()
    assert list(table["trial"]) == ["1", "3", "2", "4", "0"]
    assert list(table["lr"]) == [f"{found[trial].cfg.method.lr:.3g}" for trial in (1, 3, 2, 4, 0)]
    assert report.notes[0] == "5 of 6 trials have a result"
    assert report.notes[2] == "python train.py search=lstm_sine trial=1 seed=0"
    assert list(report.figures) == ["lstm_sine-trials"]
    alone = make_report("lstm_sine", ["trial=3", "seed=0"]).tables["trials"]  # as another machine runs it
    assert list(alone["trial"]) == ["3"]


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
    found = jobs(study, ["seed=0", *NARROW.get(study, [])])
    for job in (found[0], found[-1]):
        cfg = job.cfg.copy()
        check(cfg)
        OmegaConf.resolve(cfg.copy())  # as --cfg job --resolve
        assert cfg.study == study
        task = Task((1,), 1, True)
        if cfg.data.name != "sine":
            task = Task((cfg.data.channels, 16, 16), cfg.data.ways, False)
        if cfg.method.name == "lstm":
            cfg.method.hidden = [8]
        learner = make_learner(cfg, task).double()
        losses = learner.losses(episode(learner, tasks=1))[0]
        assert losses.isfinite().all()
        if learner.is_trained:
            losses.sum().backward()
            assert any(
                parameter.grad is not None and parameter.grad.any() for parameter in learner.parameters()
            )
