"""The command line: every mistake is one line that names it and the mend, exit code 1 or 2, before work starts."""

import io
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from fewshot.mistakes import say
from filelock import FileLock
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fewshot import jobs
from fewshot.cli import main, run_evaluate, run_train
from fewshot.config.compose import CONF, composed
from fewshot.config.run_id import run_folder
from fewshot.errors import UserError
from fewshot.training import train as runs
from tests.helpers import config

MISTAKES = [
    ("method=oplst", "did you mean oplstm?"),
    ("data=omniglt", "did you mean omniglot?"),
    ("data=miniimagenet", "did you mean mini?"),
    ("data=cub-50", "did you mean cub50?"),
    ("experiment=figure5-omniglo", "did you mean figure5-omniglot?"),
    ("backbone=conv", "did you mean conv4?"),
    ("variant=txt", "did you mean text?"),
    ("logger=wandbb", "did you mean wandb?"),
    ("trainer.update=3", "did you mean trainer.max_steps?"),
    ("method.suport=set method=lstm", "did you mean method.support_mode?"),
    ("shots=0", "give positive whole numbers"),
    ("shots=2.5", "give positive whole numbers"),
    ("shots=five", "give positive whole numbers"),
    ("-m shots=1,0", "give positive whole numbers"),
    ("seed=-1", "seed=-1: give a whole number"),
    ("seed=1.5", "seed=1.5: give a whole number"),
    ("method.meta_batch_size=0", "method.meta_batch_size=0: give a whole number from 1 to 100000"),
    ("trainer.max_steps=2.5", "trainer.max_steps=2.5: give a whole number from 1"),
    ("method.lr=-1", "method.lr=-1: give a number above 0"),
    ("method.lr=fast", "method.lr=fast: give a number above 0"),
    ("method.gamma=0 data=sine", "method.gamma=0: give a number above 0 or null"),
    ("method.passes=0", "method.passes=0: give a whole number from 1 to 10000"),
    ("method.softmax=yes-please", "give true or false"),
    ("method=lstm method.support_mode=bag", "method.support_mode=bag: choose one of set, sequence"),
    ("backbone.bn=batch", "backbone.bn=batch: choose one of none, transductive, support"),
    ("trainer.max_time=2h", "give days:hours:minutes:seconds"),
    ("method.lstm_units=[5,5]", "the last cell has 1 unit"),
    ("trainer.max_steps=10", "trainer.val_check_interval=2500 is more than trainer.max_steps=10"),
    ("data.ways=1", "give a whole number from 2 to 10000"),
    ("method=protonet data=sine", "choose another method or data"),
    ("data=sine backbone=conv4", "choose backbone=mlp"),
    ("data=glyphs backbone=conv4 data.size=8", "data.size is too small"),
    ("method.preactivation=true data=sine", "choose backbone=fc"),
    ("method=lstm method.query_cell=true", "method.query_cell=true needs method.pool_cell=true"),
    ("method=maml data=mini shots=7", "set method.meta_batch_size="),
    ("method=lstm data=folder", "set data.path="),
    ("method=[oplstm", "error: "),
    ("method=[lstm,maml]", "method is one name, or several of a grid, as -m method=lstm,maml"),
    ("-m data=[sine,mini]", "data is one name, or several of a grid, as -m data=sine,mini"),
    ("+experiment=[table1]", "experiment is one name"),
    ("~method", "a run has a learner: choose it by name"),
    ("method=5", "choose by name"),
    ("data=null", "choose by name"),
    ("+shots=5", "choose by name"),
    ("data.test=[sine]", "sine is no folder: choose one of omniglot, mini"),
    ("data=omniglot method=warpmaml backbone.widths=[64]", "give 2 or more"),
    ("data=omniglot method=lstm backbone=mlp", "backbone=mlp would not be used: leave it out"),
    ("data=sine method=lstm backbone=fc", "backbone=fc would not be used: leave it out"),
    ("data.test=glyphs", "data.test=glyphs: give a list"),
    ("data.test=[mini,mini]", "mini stands there twice"),
    ("data=omniglot data.test=[omniglot]", "tested on its own omniglot in any case"),
    ("data=omniglot trainer.similarity=paper logger=none", "choose logger=csv or wandb"),
    ("method.lstm_units=5", "method.lstm_units=5: give a list"),
    ("backbone.widths=64", "backbone.widths=64: give a list"),
    ("paths.outputs=null", "paths.outputs=null: give a path or a name"),
    ("data=folder data.path=", "data.path=: give a path or a name"),
    ("data=folder data.path=nowhere", "nowhere does not exist"),
    ("method=protonet method.inner_steps=2", "the method or data chosen has none, or its YAML"),
    ("-m method=protonet,maml method.inner_steps=2", "the method or data chosen has none, or its YAML"),
    ("methd=maml", "did you mean method?"),
    ("lr=0.01", "did you mean method.lr?"),
    ("data=folder path=there", "did you mean data.path?"),
    ("data=/my/images", "a folder of images is data=folder data.path=/my/images"),
    ("data=omniglot ++data.test.x=none", "give a list as a whole, as data.test=[cub]"),
    ("method=lstm +method.hidden.9=3", "+method.hidden.9=3: give a list as a whole"),
    (
        "method=maml data=mini shots=1 trainer.precision=16-mixed",
        "scales gradients, which would be clipped as scaled",
    ),
    ("seed=0,1", "several values are a grid, which needs -m"),
    ("data=folder data.path=/my,images", "a path with a comma needs two pairs of quotes"),
    ("method=maml data=mini shots=3 profile=quick", "no settings for method=maml data=mini shots=3: set"),
    ("search=lstm_sine trial=3 study=mine", "a search draws its trials by its own name, leave out study="),
    ("method=lstm data=omniglot backbone.widths=[8]", "backbone.widths=[8] would not be used: leave it out"),
    ("method=lstm data=omniglot backbone.bn=support", "backbone.bn=support would not be used: leave it out"),
    *(
        (f"trainer.precision={p}", "choose one of 32-true")
        for p in ("16-true", "bf16-true", "64-true", "bogus")
    ),
    ("trainer.precision=transformer-engine", "choose one of 32-true"),
    ("data=mini method=oplstm trainer.accelerator=abacus", "choose one of auto, cpu"),
    ("data=mini method.name=nan", "method.name=nan is no setting"),
    ("data=mini method.name=bogus", "choose it as method=bogus"),
    ("method=lstm trainer.precision=bf16-mixed trainer.accelerator=cpu", "choose that"),
    (
        "trainer.precision=tf32 trainer.accelerator=cpu",
        "is for NVIDIA's GPUs, and this runs on cpu: choose 32-true",
    ),
    ("method=lstm method.support_mode=sequence method.first_labels=false", "is for method.support_mode=set"),
    ("method.passes=1000000000", "give a whole number from 1 to 10000"),
    ("trainer.eval_batch_size=99999999999999999999", "give a whole number from 1 to 100000"),
    ("trainer.num_threads=100000", "give a whole number from 0 to 1024"),
    ("trainer.max_time=0:00:00:00", "give days:hours:minutes:seconds"),
    ("trainer.max_time=99999999999:00:00:00", "give days:hours:minutes:seconds"),
    ("data=folder data.path=~/images", "needs two pairs of quotes"),
    ("data.path=(a", "needs two pairs of quotes"),
    ("seed=1,,", "seed=1,, cannot be read as name=value"),
    ("search=lstm_sine", "search=lstm_sine is a search: -m runs its trials, trial=0 one of them"),
    ("-m search=lstm_sine experiment=table1", "a command runs one study, leave out one of them"),
    ("seed=${nowhere}", "nowhere"),
    ("seed=${oc.env:NOWHERE_AT_ALL}", "NOWHERE_AT_ALL"),
]
MISTAKES_OF_A_TEST = [
    ("", "give the folder of a run"),
    ("run=.", "needs config.yaml and best.ckpt"),
    ("run=. data=5", "data=5: give a path or a name"),
    ("run=. threads=abc", "threads=abc: give a whole number"),
    ("run=. shots=0", "shots=0: give positive whole numbers"),
    ("run=. paths=5", "paths=5: this is a group of settings"),
    ("run=. num_threads=100000", "give a whole number from 0 to 1024"),
    ("run=. shots=99999999999999999999", "give a whole number from 1 to 10000"),
    ("rnu=.", "unknown setting 'rnu'"),
    ("run=. logger=csv", "unknown setting 'logger'"),
    ("run=. path=???", "path=???: give a value"),
    ("run=. querys=15", "did you mean queries?"),
]


def call(monkeypatch: pytest.MonkeyPatch, command: str, program: str = "train") -> int:
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *command.split()])
    if program == "train":
        return main(run_train, "train")
    return main(run_evaluate, "evaluate")


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_line(
    command: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("FEWSHOT_PREPARED", str(tmp_path / "prepared"))
    assert call(monkeypatch, command) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert len([line for line in (out + err).splitlines() if line.strip()]) == 1, err
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(("command", "message"), MISTAKES_OF_A_TEST)
def test_a_mistake_in_a_test_is_one_line(
    command: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, command, "evaluate") == 2
    out, err = capfd.readouterr()
    assert message in err
    assert len((out + err).splitlines()) == 1, err


def test_unknown_data_for_a_test_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cfg = config(tmp_path, "trainer.max_steps=10")
    runs.train(cfg)
    capfd.readouterr()
    assert call(monkeypatch, f"run={run_folder(cfg)} data=gyphs", "evaluate") == 2
    assert capfd.readouterr().err.endswith("did you mean glyphs?\n")


def test_a_cell_that_fails_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = []

    def run(cfg: DictConfig) -> dict[str, str]:
        if cfg.method.name == "maml":
            raise RuntimeError("broken")
        if cfg.method.name == "oplstm":
            raise OmegaConfBaseException("odd")
        done.append(cfg.method.name)
        return {"status": "finished"}

    monkeypatch.setattr(sys, "argv", ["train.py", "seed=0", "-m", "method=glob(*)"])
    assert main(run, "train") == 2
    assert done == ["lstm", "protonet", "sap", "warpmaml"]
    err = capfd.readouterr().err
    assert "2 of 6 cells have no result" in err
    assert "method=maml: failed, RuntimeError: broken" in err
    assert "method=oplstm: refused, odd" in err


@pytest.mark.parametrize("ended", [True, False])
def test_a_cell_at_which_another_process_is_at_work(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, ended: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = config(tmp_path)
    runs.train(elsewhere)
    result = run_folder(elsewhere) / "result.json"
    hidden = result.rename(tmp_path / "later")

    def run(cfg: DictConfig) -> dict[str, Any]:
        if cfg.seed == 0:
            return runs.train(elsewhere)
        if ended:
            hidden.rename(result)
        return {"status": "finished"}

    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1"])
    with FileLock(result.with_name(".lock")):
        assert main(run, "train") == (0 if ended else 2)
    err = capfd.readouterr().err
    assert f"error: another process is at work on {result.parent}: wait for it" in err
    assert ("1 of 2 cells have no result:\n  seed=0: refused, another process" in err) is not ended


def test_a_terminal_that_cannot_print_a_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def run(_: DictConfig) -> dict[str, str]:
        print("83.2% ± 1.4")
        return {"status": "finished"}

    assert main(run, "train") == 0
    assert terminal.buffer.getvalue() == b"83.2% \\xb1 1.4\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 5 TiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
    ids=["python", "cpu", "gpu"],
)
def test_memory_that_cannot_be_had_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def greedy(*_: object) -> None:
        raise error

    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(runs, "fit_and_test", greedy)
    assert call(monkeypatch, "data=sine logger=none") == 2
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith("error: not enough memory: lower trainer.micro_batch_size")


def test_help_shows_the_commands(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "--help")
    assert stop.value.code in (0, None)
    text = capfd.readouterr().out
    for wanted in ("python train.py method=oplstm data=mini shots=5", "protonet", "glyphs", "released"):
        assert wanted in text


def test_any_positive_number_of_shots_is_a_choice() -> None:
    for shots in (1, 5, 7, 33):
        assert composed([f"shots={shots}"]).shots == shots


def test_cells_of_a_sweep_are_counted() -> None:
    total, swept = jobs.count(
        [], ["-m", "method=protonet,oplstm", "shots='1','5'", "seed=0,1,2", "data=glyphs"]
    )
    assert total == 12
    assert swept == {"method", "shots", "seed"}


def test_cells_of_a_sweep_in_a_yaml_are_counted_too() -> None:
    assert jobs.count(["seed=0,1", "shots='1','5'"], ["-m", "seed=3,4,5"]) == (6, {"seed", "shots"})
    assert jobs.count(["method.lr=interval(0.1,0.2)", "seed=0,1"], []) == (None, {"method.lr", "seed"})


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("-m shots=range(1,3)", [1, 2]),
        ("-m shots=choice(1,7)", [1, 7]),
        ("+experiment=demo", [1]),
        ("experiment=demo shots=5", [5]),
    ],
)
def test_habits_of_hydra(
    command: str, seen: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []

    def run(cfg: DictConfig) -> dict[str, Any]:
        found.append(cfg.shots)
        return {"status": "finished"}

    monkeypatch.setattr(sys, "argv", ["train.py", *command.split()])
    assert main(run, "train") == 0
    assert found == seen


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "experiment=table1 seed=0",
            "this is one cell of experiment=table1, which sweeps method, shots: -m runs them",
        ),
        (
            "search=oplstm_mini method.passes=1",
            "one cell of search=oplstm_mini, which sweeps method.meta_batch_size, method",
        ),
        ("experiment=table1 method=lstm shots=5 seed=0", ""),
        ("search=lstm_sine ++trial=3", ""),
        ("-m search=lstm_sine trial=3", ""),
        ("experiment=demo", ""),
    ],
)
def test_a_study_without_m_is_told(
    command: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *command.split()])
    assert main(lambda _: {"status": "finished"}, "train") == 0
    err = capfd.readouterr().err
    assert told in err
    assert ("one cell" in err) == bool(told)


def test_a_sweep_over_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for asked in ("-m", "hydra.mode=MULTIRUN"):
        assert call(monkeypatch, f"{asked} seed=range(3,3)") == 2
        assert capfd.readouterr().err == "error: seed=range(3,3): no values, no cells\n"


def test_signs_that_steer_a_terminal_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert say(UserError("a\x1b[31m\n\x9bb é")) == 2
    assert capfd.readouterr().err == "error: a\\x1b[31m \\x9bb é\n"


@pytest.mark.parametrize("command", ["hydra.run.dir=x", "hydra.job.chdir=true", "-m hydra.sweep.subdir=x"])
def test_what_would_have_no_effect_is_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, command) == 2
    assert "a run's folder is named by what it does" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("plugin", "command", "bar"),
    [
        (
            "hydra_plugins.hydra_joblib_launcher",
            "hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=0,1",
            "2/2",
        ),
        ("hydra_plugins.hydra_submitit_launcher", "hydra/launcher=submitit_local seed=0,1", ""),
        (
            "hydra_plugins.hydra_optuna_sweeper",
            "hydra/sweeper=optuna hydra.sweeper.n_trials=2 method.lr=interval(1e-4,1e-2)",
            "2/?",
        ),
    ],
)
def test_plugins_of_hydra(
    plugin: str,
    command: str,
    bar: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Launchers with processes of their own, and a sweeper that optimises what a cell returns.

    The cells of submitit print into files of its own.
    """
    pytest.importorskip(plugin)
    monkeypatch.setenv("FEWSHOT_OUTPUTS", str(tmp_path / "outputs"))
    small = "trainer.max_steps=4 trainer.val_check_interval=2 trainer.num_val_tasks=4 trainer.num_test_tasks=4 trainer.num_threads=1"
    assert (
        call(
            monkeypatch,
            f"-m {command} data=sine method=lstm shots=5 {small} logger=csv trainer.enable_progress_bar=false",
        )
        == 0
    )
    results = list((tmp_path / "outputs").glob("sine/lstm/5-shot/*/result.json"))
    assert len(results) == 2
    err = capfd.readouterr().err
    assert "have no result" not in err
    assert bar in err


def test_settings_of_unknown_shots_follow_from_method_and_data() -> None:
    assert composed(["method=maml", "data=mini", "shots=5"]).method.meta_batch_size == 2
    assert composed(["method=protonet", "data=mini", "shots=7"]).method.meta_batch_size == 4


def test_naming_a_backbone_wins_over_the_data() -> None:
    assert composed(["data=mini"]).backbone.name == "conv4"
    assert composed(["data=mini", "backbone=fc"]).backbone.name == "fc"
    assert composed(["data=omniglot", "backbone=conv4"]).method.normalisation == "matrix"


def test_shots_of_a_test_are_swept_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(cfg: DictConfig) -> dict[str, str]:
        composed(["shots=3"])  # as evaluating does
        seen.append((cfg.run, cfg.shots))
        return {"status": "finished"}

    for command in ("-m run=a,b shots=1,7", "run=c shots=7", "run=c"):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *command.split()])
        assert main(run, "evaluate") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert seen == [("a", 1), ("a", 7), ("b", 1), ("b", 7), ("c", 7), ("c", None)]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("--shots 5", "--shots: a setting is given without dashes"),
        ("method:maml", "method:maml: a setting is given as name=value"),
        ("--cfg jobb", "invalid choice: 'jobb'"),
        ("-m hydra/launcher=nothing", "unknown hydra/launcher 'nothing': choose one of basic, "),
        (
            "-m hydra/sweeper=optuna_of_old",
            "hydra/sweeper=optuna_of_old is not installed: pip install '.[sweeps]'",
        ),
        ("trainer.num_threads=1024", "is more than the"),
    ],
)
def test_what_hydra_would_answer_with_its_usage(
    command: str, told: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, command) == 2
    err = capfd.readouterr().err
    assert told in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_configs_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEWSHOT_CONF", "/nonexistent")
    assert call(monkeypatch, "method=maml") == 2
    assert capfd.readouterr().err == "error: FEWSHOT_CONF=/nonexistent is no folder\n"


def test_own_configs_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As settings of one's own for a method that is there."""
    (tmp_path / "settings").mkdir()
    shipped = (CONF / "settings" / "maml-mini.yaml").read_text()
    (tmp_path / "settings" / "maml-mini.yaml").write_text(shipped.replace("lr: 1.0e-3", "lr: 0.5", 1))
    before = composed(["method=maml", "data=mini"]).method.lr
    monkeypatch.setenv("FEWSHOT_CONF", str(tmp_path))
    assert (before, composed(["method=maml", "data=mini"]).method.lr) == (0.001, 0.5)


def test_a_worker_that_is_killed_is_no_mistake_of_the_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(cfg: DictConfig) -> dict[str, Any]:
        return {"status": "diverged" if cfg.seed else "finished", "reason": "it rose"}

    def show(*_: Any) -> None:
        if len(jobs.outcomes()) == 2:
            raise RuntimeError("A worker process was unexpectedly terminated")

    monkeypatch.setattr(jobs, "show", show)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1,2"])
    assert main(run, "train") == 1
    err = capfd.readouterr().err
    assert "2 of 3 cells have no result:\n  seed=1: diverged, it rose\n" in err
    assert err.endswith("error: A worker process was unexpectedly terminated\n")

    def lost(_: Any) -> NoReturn:
        raise BrokenProcessPool("A worker process was unexpectedly terminated")

    monkeypatch.setattr(jobs, "sweep", lost)  # before a cell has ended
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1,2"])
    assert main(run, "train") == 1


def test_done_cells_take_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also once torch is there: what is left is reckoned from those that ran."""
    monkeypatch.chdir(tmp_path)
    told = {
        "logger": "csv",
        "trainer.enable_progress_bar": "false",
        "trainer.max_steps": "2",
        "trainer.val_check_interval": "1",
    }
    told |= {"trainer.num_val_tasks": "3", "trainer.num_test_tasks": "3", "data": "sine", "method": "lstm"}
    argv = ["train.py", *(f"{name}={value}" for name, value in told.items())]
    ran: list[bool] = []
    monkeypatch.setattr(jobs, "add", lambda told: ran.append(told["ran"]))
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", argv)
        assert main(run_train, "train") == 0
    assert ran == [True, False]


def test_a_command_runs_one_study(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of two, Hydra would forget what they sweep, and train a run of each."""
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "-m experiment=table1,table2") == 2
    assert "a command runs one study" in capfd.readouterr().err


def test_a_command_takes_away_its_own_folder_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable may be that of a command that began this one."""
    (tmp_path / "own").mkdir()
    monkeypatch.setenv(jobs.FILE, str(tmp_path / "cells.jsonl"))
    monkeypatch.setattr(jobs, "told", None)
    monkeypatch.setattr(jobs, "_own", None)
    jobs.end()
    assert (tmp_path / "own").is_dir()
    jobs.begin(tmp_path / "own", run_train, [])
    jobs.end()
    assert tmp_path.is_dir()
    assert not (tmp_path / "own").exists()


def test_what_is_left_is_told_from_the_cells_that_ran(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(jobs.FILE, "")  # and back to what it was
    monkeypatch.setattr(jobs, "told", None)
    monkeypatch.setattr(jobs, "_own", None)
    jobs.begin(tmp_path, run_train, [])
    begun = (tmp_path / "arguments.json").stat().st_mtime
    monkeypatch.setattr(jobs.time, "time", lambda: begun + 600)
    told = io.StringIO()
    for number, ran in enumerate((False, True, True)):
        jobs.add({"cell": number, "ran": ran})
    jobs.show(Console(file=told, width=120), total=7)
    assert "3/7" in told.getvalue()
    assert "0:10:00 · about 0:20:00 left" in told.getvalue()  # 4 cells of 5 minutes
    jobs.show(Console(file=told, width=120), total=None)  # a sweeper decides
    assert "3/?" in told.getvalue()
