"""Shared by the tests: small networks in float64, random episodes, and one thread."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from fewshot import methods
from fewshot.backbones.task_weight import TaskWeight
from fewshot.episodes import Episode, Task
from fewshot.methods import MetaLearner
from fewshot.plots import episodes as figures
from fewshot.training.run import run
from tests.helpers import config

CLASSES: dict[str, type[MetaLearner]] = {
    **{"lstm": methods.PlainLSTM, "maml": methods.MAML, "oplstm": methods.OPLSTM},
    **{"protonet": methods.ProtoNet, "sap": methods.SAP, "warpmaml": methods.WarpMAML},
    **{"ridge": methods.Ridge, "deltanet": methods.DeltaNet, "reptile": methods.Reptile},
    **{"nearest_centroid": methods.NearestCentroid, "logistic": methods.Logistic, "metasgd": methods.MetaSGD},
    "warp_oplstm": methods.WarpOPLSTM,
}
FC = {"layer": "linear", "widths": [6, 5], "bn": "transductive", "zero_bias": False}
MLP = {"layer": "linear", "widths": [6, 5], "bn": "none", "zero_bias": True}
CONV = {"layer": "conv", "widths": [3, 4], "bn": "transductive", "zero_bias": False}
BACKBONES = {"fc": FC, "mlp": MLP, "conv4": CONV}
RELEASED = {"pool_state": False, "softmax": False}
TEXT = {"normalisation": "example", "gamma": 0.025, "pool_state": True, "softmax": True}
OPLSTM: dict[str, Any] = {"lr": 1e-3, "passes": 3, "lstm_units": [3, 2, 1], "gamma": 0.4}
OPLSTM |= {"preactivation": False, "detach": False, "scalar_bias": False}
LSTM = {"lr": 1e-3, "inputs": "target", "hidden": [7, 4], "passes": 3, "first_labels": True}
WARP_OPLSTM = OPLSTM | RELEASED | {"normalisation": "joint"}
INNER = {"lr": 1e-3, "inner_lr": 0.3, "inner_steps": 3, "eval_inner_steps": 3}
INNER |= {"first_order": False, "grad_clip": None}
MAML = INNER | {"grad_clip_each": False}
WARPMAML = INNER | {"last_loss": False}
SAP = INNER | {"centred": True}
OPTIONS: dict[str, dict[str, Any]] = {"lstm": LSTM, "maml": MAML, "oplstm": OPLSTM, "sap": SAP}
OPTIONS |= {"protonet": {"lr": 1e-3}, "warpmaml": WARPMAML, "ridge": {"lr": 1e-3, "penalty": 0.5}}
OPTIONS |= {"deltanet": {"lr": 1e-3, "passes": 3, "key_size": 4}}
OPTIONS |= {"reptile": {"lr": 1e-3, "inner_lr": 0.3, "inner_steps": 3, "eval_inner_steps": 3}}
OPTIONS |= {"metasgd": {"lr": 1e-3, "inner_lr": 0.3, "inner_steps": 3}}
OPTIONS |= {"warp_oplstm": WARP_OPLSTM}
OPTIONS |= {"nearest_centroid": {"distance": "euclidean"}, "logistic": {"penalty": 0.5}}

for name in list(os.environ):
    if name.startswith(("FEWSHOT_", "WANDB_")) and name != "FEWSHOT_RAW":
        del os.environ[name]  # a user's own settings are none of the tests'
os.environ["WANDB__SERVICE_WAIT"] = "300"  # its service starts slowly on a busy machine
torch.set_num_threads(1)
figures.DPI = 50  # print quality takes long
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:  # by nohup, and children would inherit it
        signal.signal(number, lambda *_: None)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command in a process group of its own, which is killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(command: list[str], folder: Path, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=folder, text=True, start_new_session=True, **pipes | options)
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs and reports are kept."""
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run draws no pictures, which take longer than a short run."""
    monkeypatch.setattr("fewshot.training.evaluate.draw_figures", lambda *_: {})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: a folder whose `outputs` may be read, and copied to be changed."""
    place = tmp_path_factory.mktemp("finished")
    run(config(place))
    return place


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> DictConfig:
    """The configuration of a copy of the finished run in `tmp_path`."""
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    return config(tmp_path)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def raw() -> str:
    """The folder of real archives; tests that need it are skipped without the variable FEWSHOT_RAW."""
    if "FEWSHOT_RAW" not in os.environ:
        pytest.skip("needs the real archives: set FEWSHOT_RAW")
    return os.environ["FEWSHOT_RAW"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """Where the real archives are prepared, once for all of xdist's workers."""
    return tmp_path_factory.getbasetemp().parent / f"prepared-{testrun_uid}"


def make(
    method: str, backbone: str, bn: str | None = None, regression: bool = False, **options: object
) -> MetaLearner:
    """A small learner in float64 with every weight away from its default (batch norm's too)."""
    shape = {"mlp": (1,), "fc": (1, 3, 3), "conv4": (2, 8, 5)}[backbone]  # pooling drops a column of 5
    network = BACKBONES[backbone] | ({} if bn is None else {"bn": bn})
    learner = CLASSES[method](Task(shape, 1 if regression else 3, regression), network, **options).double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, parameter in learner.named_parameters():
            if name.endswith("bn_weight") and backbone == "conv4":  # pooling comes after it
                parameter[0] *= -1
    return learner


def materialized(weight: torch.Tensor | TaskWeight, tasks: int) -> torch.Tensor:
    """An adapted weight of each task, (B, ...), however it is held."""
    return weight.materialize(tasks) if isinstance(weight, TaskWeight) else weight


def episode(learner: MetaLearner, tasks: int = 3, shots: int = 2, queries: int = 4) -> Episode:
    """Random tasks of a learner's shape, labels shuffled within each task."""
    task = learner.task

    def one_set(examples: int) -> tuple[torch.Tensor, torch.Tensor]:
        if task.regression:
            shape = (tasks, examples, 1)
            return torch.randn(tasks, examples, *task.input_shape).double(), torch.randn(shape).double()
        labels = torch.arange(task.outputs).repeat(tasks, examples)
        labels = torch.stack([row[torch.randperm(len(row))] for row in labels])
        return torch.randn(tasks, labels.shape[1], *task.input_shape).double(), labels

    return Episode(*one_set(shots), *one_set(queries), torch.arange(tasks))
