"""What W&B is told of a study, without a server: a sweep's YAML, and the panels of a dashboard."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewshot import dashboard
from fewshot.config.checks import check
from fewshot.config.compose import composed
from fewshot.config.run_id import run_folder, run_name
from fewshot.report import sweep
from fewshot.report.runs import cells
from fewshot.training.run import run as train
from tests.helpers import config
from tests.offline import history, summary

pytestmark = pytest.mark.usefixtures("composed_once")


@pytest.mark.parametrize("study", ["lstm_sine", "oplstm_omniglot", "maml_sine_widths", "table2"])
def test_an_agents_call_is_a_cell_of_the_study(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([study]) == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert told["command"][:3] == ["${env}", "python", "train.py"]
    assert told["metric"]["goal"] == ("minimize" if "sine" in study else "maximize")
    spaces = [[f"{name}={value}" for value in space["values"]] for name, space in told["parameters"].items()]
    runs = list(product(*spaces))
    narrow = {"oplstm_omniglot": ["method.passes=10", "method.meta_batch_size=32"], "table2": ["seed=42"]}
    folders = {cell.folder for cell in cells(study, narrow.get(study, []))}
    assert len(runs) >= len(folders)
    for run in (runs[-1], *runs[:1]):  # as an agent replaces ${args_no_hyphens}
        cfg = composed([told["command"][3], *run])
        check(cfg)
        if run is runs[-1] or not narrow.get(study):
            assert run_folder(cfg) in folders


def test_a_dashboard_shows_what_runs_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = config(tmp_path, "logger=wandb", "trainer.max_steps=40", "trainer.log_every_n_steps=5")
    train(cfg)
    folder = run_folder(cfg)
    logged = {name for row in history(folder) for name in row} | set(summary(folder))
    found = cells("lstm_sine", ["trial=0,1,2"])
    view, page = (make("lstm_sine", ["trial=0,1,2"], found) for make in (dashboard.workspace, dashboard.page))
    spec = view._to_model().model_dump_json(by_alias=True)
    shown = set(re.findall(r'"((?:val|train|test)/[\w/]+|tasks_per_second|peak_memory_bytes)"', spec))
    assert {"val/mse", "train/loss", "test/mse", "tasks_per_second"} <= shown <= logged
    assert {"learning", "test", "search", "the report"} <= set(re.findall(r'"name":"([^"]+)"', spec))
    for setting in (
        "method.value.lr",
        "method.value.passes",
        "layers.value.method.hidden",
        "units.value.method.hidden",
    ):
        assert f"config:{setting}" in spec
    assert len(page.blocks) == 1 + 2 * len(dashboard.sections("lstm_sine", found))


@pytest.mark.parametrize(
    ("study", "told", "groups"),
    [
        ("table1", ["seed=0,1"], ["method.value.name", "shots.value"]),
        ("figure5", ["profile=quick", "shots=5,10"], ["method.value.support", "shots.value"]),
        ("table4", ["method=sap", "seed=0,1"], ["method.value.name", "data.value.name", "shots.value"]),
        (
            "table1",
            ["shots=5", "method.lr=1e-3,1e-2"],
            ["method.value.name", "shots.value", "method.value.lr"],
        ),
        (
            "table1",
            ["shots=5", "++method.lr=1e-3,1e-2"],
            ["method.value.name", "shots.value", "method.value.lr"],
        ),
        ("lstm_sine", ["trial=0,1"], []),
    ],
)
def test_a_dashboard_is_of_the_studys_runs_and_puts_seeds_alone_together(
    study: str, told: list[str], groups: list[str]
) -> None:
    pytest.importorskip("wandb_workspaces")
    found = cells(study, told)
    [runs] = (
        dashboard.workspace(study, told, found)
        ._to_model()
        .model_dump(by_alias=True)["spec"]["section"]["runSets"]
    )
    assert [key["name"] for key in runs["grouping"]] == groups
    [chosen] = runs["filters"]["filters"]
    assert (chosen["key"]["name"], chosen["op"]) == ("displayName", "IN")
    in_order = " ".join(sorted(told, key=lambda setting: setting.lstrip("+")))
    of_report = f"{study} {in_order.replace('=', ' ').replace('+', ' ')}" + ", shrunk" * (
        "profile=quick" in told
    )
    runs_then_tests = [of_report, *(run_name(cell.cfg, cell.folder) for cell in found)]
    if study == "table4":  # of evaluate.py
        other = {"mini": "cub", "cub": "mini"}
        tests = [f"{name}-on-{other[name.split('-')[0]]}" for name in runs_then_tests[1:]]
        shots = [cell.cfg.shots for cell in found]
        runs_then_tests += [f"{t}-5way-{s}shot-15queries-600tasks" for t, s in zip(tests, shots, strict=True)]
    assert chosen["value"] == runs_then_tests
    assert len(set(chosen["value"])) == len(chosen["value"])


def test_tests_across_domains_are_shown() -> None:
    pytest.importorskip("wandb_workspaces")
    panels: list[Any] = dashboard.sections(
        "omniglot-glyphs", cells("omniglot-glyphs", ["seed=0", "shots=1"])
    )["test"]
    assert [panel.title for panel in panels] == ["test/accuracy", "test/glyphs/accuracy"]


@pytest.mark.parametrize("program", [dashboard, sweep])
def test_help(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--help"]) == program.main(["table1", "--help"]) == 0
    assert f"python -m {program.__name__}" in capsys.readouterr().out


@pytest.mark.parametrize("program", [dashboard, sweep])
@pytest.mark.parametrize("arguments", [[], ["table9"], ["table1", "profile=quick,null"]])
def test_a_mistake_is_a_line(program: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
