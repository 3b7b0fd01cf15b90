"""The benchmarks run, and say what they should; how long anything took decides nothing."""

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as benchmarks
from benchmarks import cases, compare, grow
from benchmarks.counts import count
from fewshot.config.compose import CONF
from fewshot.errors import UserError


@pytest.fixture(autouse=True)
def threads_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the environment's threads to the tests that come after."""
    for name in ("PJRT_NPROC", "NPROC", "XLA_FLAGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_one_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "times.json"
    found = benchmarks.main(
        ["--cases", "sine/lstm", "--seconds", "0.1", "--set", "method.hidden=[4,4]", "--json", str(file)]
    )
    assert json.loads(file.read_text()) == json.loads(json.dumps(found))
    assert {"processor", "threads", "versions", "git_commit", "best_gflops", "load"} <= found.keys()
    [case] = found["cases"]
    assert case["name"] == "sine/lstm"
    assert case["config"]["method"]["hidden"] == [4, 4]
    assert case["of_a_step"]["ops"] > case["of_a_step"]["kernels"] > 50
    assert {"train", "draw", "test", "lightning"} <= case["ms_per_task"].keys()
    for times in case["ms_per_task"].values():
        assert 0 < times["min"] <= times["p10"] <= times["median"] <= times["p90"]
        assert times["steps"] >= 3
    printed = capsys.readouterr().out
    assert "sine/lstm" in printed
    assert "a training step, counted" in printed


def test_compiled_code_beside_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    asked = ["method.hidden=[4]", "method.passes=2", "trainer.compile=true"]
    [case] = benchmarks.main(["--cases", "sine/lstm", "--seconds", "0.1", "--set", *asked])["cases"]
    assert case["ms_per_task"]["compiled"]["steps"] >= 3
    assert case["compile_seconds"] > 0
    assert "compiled CPU" in capsys.readouterr().out


def test_cases_are_those_with_settings() -> None:
    assert len(cases.names()) == len(list((CONF / "settings").glob("*.yaml")))
    assert benchmarks.chosen("sine/o*,omniglot/sap", slow=False) == ["sine/oplstm", "omniglot/sap"]
    assert not any(name.startswith("mini") for name in benchmarks.chosen(None, slow=False))
    with pytest.raises(UserError, match="sine/protonet: there is none"):
        benchmarks.chosen("sine/protonet", slow=False)


def test_arithmetic_is_what_torch_counts() -> None:
    step = cases.build("sine/maml", settings=["method.inner_steps=2"]).train()
    counted = count(step)
    with FlopCounterMode(display=False) as expected:
        step()
    assert counted.flops == expected.get_total_flops() > 0


def test_arithmetic_of_lstm_layers() -> None:
    layer = torch.nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(5, 2, 3, requires_grad=True)
    forward = 2 * 5 * 2 * 4 * 4 * (3 + 4)  # multiply-adds of 5 × 2 examples with 4 gates of 4 units
    assert count(lambda: layer(x)).flops == forward
    assert count(lambda: layer(x)[0].sum().backward()).flops == 3 * forward


def test_peak_memory() -> None:
    """Two tensors at once at most, whatever was let go before."""

    def step() -> None:
        for _ in range(3):
            a = torch.ones(1000)
            b = a * 2
            del a, b

    assert count(step).peak == 2 * 4000


def test_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grow, "LINES", [("sine/maml", "method.inner_steps", (1, 2))])
    [line] = benchmarks.main(["--grow", "--seconds", "0.1"])["growth"]
    assert [point["value"] for point in line["points"]] == [1, 2]
    assert line["points"][1]["kernels"] > line["points"][0]["kernels"]
    assert line["powers"].keys() == {"cpu_ms", "peak_mb"}


def test_two_commits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The working tree beside itself; needs no git."""
    monkeypatch.setattr(compare, "TURN", 0.01)
    monkeypatch.setattr(compare, "KINDS", ("train",))
    [row] = compare.main([".", ".", "--cases", "sine/lstm", "--seconds", "0.1"])
    assert 0 < row["from"] <= row["ratio"] <= row["to"]
    assert "new/old" in capsys.readouterr().out


def test_a_commit_that_is_not_there() -> None:
    if subprocess.run(
        ["git", "-C", str(CONF.parent), "rev-parse"], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs a git checkout")
    with pytest.raises(UserError, match="nothing-of-this-name cannot be checked out"):
        compare.main([".", "nothing-of-this-name", "--cases", "sine/lstm"])


def test_settings_reach_the_learner() -> None:
    case: Any = cases.build("omniglot/oplstm", settings=["method.passes=2", "data.ways=3"])
    assert case.learner.passes == case.tester.passes == 2
    assert next(case.batches("train")).support_x.shape == (4, 3, 1, 28, 28)
    assert case.learner.training
    assert not case.tester.training
