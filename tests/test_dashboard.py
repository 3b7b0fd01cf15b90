"""The panels of a study's dashboard, without a server."""

import re

import pytest

from fewshot.config.run_id import run_folder, run_name
from fewshot.report.jobs import jobs, run_program
from fewshot.training.run import run as train
from tests.helpers import config
from tests.offline import history, summary

pytest.importorskip("wandb_workspaces")
from fewshot.report import dashboard


@pytest.mark.slow
def test_a_dashboard_shows_what_runs_log(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = config(tmp_path, "logger=wandb", "trainer.max_steps=40", "trainer.log_every_n_steps=5")
    train(cfg)
    folder = run_folder(cfg)
    logged = {name for row in history(folder) for name in row} | set(summary(folder))
    view = dashboard.workspace("lstm_sine", ["trial=0,1,2"])
    spec = view._to_model().model_dump_json(by_alias=True)
    shown = set(re.findall(r'"((?:val|train|test)/[\w/]+|tasks_per_second|peak_memory_bytes)"', spec))
    assert {"val/mse", "train/loss", "test/mse", "tasks_per_second"} <= shown <= logged
    assert {"learning", "test", "search", "the report"} <= set(re.findall(r'"name":"([^"]+)"', spec))


@pytest.mark.parametrize(
    ("study", "narrow", "groups"),
    [
        ("figure5", ["profile=quick", "shots=5,10"], ["method.value.support_mode", "shots.value"]),
        ("table4", ["method=sap", "seed=0,1"], ["data.value.name", "shots.value"]),
        ("table1", ["shots=5", "++method.lr=1e-3,1e-2"], ["method.value.name", "method.value.lr"]),
        ("lstm_sine", ["trial=0,1"], []),
    ],
)
def test_a_dashboard_is_of_the_studys_runs_and_groups_their_seeds(study, narrow, groups):
    found = jobs(study, narrow)
    model = dashboard.workspace(study, narrow)._to_model().model_dump(by_alias=True)
    [runs] = model["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == groups
    [chosen] = runs["filters"]["filters"]
    assert (chosen["key"]["name"], chosen["op"]) == ("displayName", "IN")
    names = [run_name(job.cfg, job.folder) for job in found]
    if study == "table4":  # with the tests of evaluate.py
        other = {"mini": "cub", "cub": "mini"}
        tests = [f"{other[job.cfg.data.name]}-5way-{job.cfg.shots}shot-15queries-600tasks" for job in found]
        names += [f"{name}-on-{test}" for name, test in zip(names, tests, strict=True)]
    assert chosen["value"][0].startswith(study)
    assert sorted(chosen["value"][1:]) == sorted(names)


def test_help_and_a_mistake(capsys, monkeypatch):
    for argument, code, words in (
        ("--help", 0, "python -m fewshot.report.dashboard"),
        ("table9", 2, "table9"),
    ):
        monkeypatch.setattr("sys.argv", ["dashboard", argument])
        with pytest.raises(SystemExit) as ended:
            run_program(dashboard.main, dashboard.__doc__)
        assert ended.value.code == code
        assert words in "".join(capsys.readouterr())
