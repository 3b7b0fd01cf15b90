"""The benchmarks run and count what they should; no timing decides a test."""

import json
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as benchmarks
from benchmarks import cases, compare
from benchmarks.counts import count


@pytest.fixture(autouse=True)
def restore_threads(monkeypatch):
    for name in ("PJRT_NPROC", "NPROC", "XLA_FLAGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.slow
def test_one_case(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    file = tmp_path / "times.json"
    settings = ["method.hidden=[4,4]", "method.passes=2", "trainer.compile=true"]
    options = ["--cases", "sine/lstm", "--seconds", "0.1", "--json", str(file), "--set", *settings]
    results = benchmarks.main(options)
    assert json.loads(file.read_text()) == json.loads(json.dumps(results))
    assert {"processor", "threads", "versions", "git_commit", "best_gflops", "load"} <= results.keys()
    [case] = results["cases"]
    assert case["config"]["method"]["hidden"] == [4, 4]
    assert case["of_a_step"]["ops"] > case["of_a_step"]["kernels"] > 50
    assert {"train", "draw", "test", "lightning", "compiled"} <= case["ms_per_task"].keys()
    for times in case["ms_per_task"].values():
        assert 0 < times["min"] <= times["p10"] <= times["median"] <= times["p90"]
    assert "sine/lstm" in capsys.readouterr().out


@pytest.mark.slow
def test_a_learner_that_cannot_be_compiled_is_timed_eagerly():
    settings = ["method.inner_steps=1", "method.eval_inner_steps=1", "trainer.compile=true"]
    results = benchmarks.main(["--cases", "omniglot/warpmaml", "--seconds", "0.1", "--set", *settings])
    [case] = results["cases"]
    assert "train" in case["ms_per_task"]
    assert "compiled" not in case["ms_per_task"]


def test_flops_are_those_that_torch_counts():
    step = cases.build("sine/maml", settings=["method.inner_steps=2"]).train()
    counted = count(step)
    with FlopCounterMode(display=False) as expected:
        step()
    assert counted.flops == expected.get_total_flops() > 0


@pytest.mark.slow
def test_two_commits(monkeypatch):
    monkeypatch.setattr(compare, "TURN", 0.01)
    monkeypatch.setattr(compare, "KINDS", ("train",))
    [row] = compare.main([".", ".", "--cases", "sine/lstm", "--seconds", "0.1"])
    assert 0 < row["from"] <= row["ratio"] <= row["to"]
