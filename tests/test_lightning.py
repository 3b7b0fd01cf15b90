"""What Lightning's users expect: a stock Trainer trains, tests, resumes and takes its options."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from fewshot.config.compose import composed
from fewshot.config.run_id import config_diff, run_folder
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.sine import SineSource
from fewshot.episodes import Task
from fewshot.training.evaluate import evaluate
from fewshot.training.folder import load_weights
from fewshot.training.run import run as train
from tests.conftest import CLASSES, FC, MAML, OPTIONS
from tests.helpers import config, evaluation

NAMES = {  # of run folders
    "data=omniglot method=oplstm": "seed0-a39e2bbc05",
    "data=mini method=maml shots=5": "seed0-c36a1e565e",
    "data=sine method=lstm shots=5 variant=paper": "seed0-e683796e1d",
    "experiment=demo": "seed0-b0e827c814",
    "data=omniglot method=protonet": "seed0-c67e99cd02",
    "data=omniglot method=protonet data.train_ways=5": "seed0-c67e99cd02",
}


def waves():
    source = SineSource(0)
    tasks = {"train_queries": 5, "num_val_tasks": 6, "num_test_tasks": 7, "eval_batch_size": 4}
    backbone = {"layer": "linear", "widths": [5], "bn": "none"}
    learner = CLASSES["maml"](source.task, backbone, **MAML)
    return learner, EpisodicDataModule(source, 3, 2, 4, **tasks)


def stock(folder, *callbacks, epochs=1):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    own = quiet | {"callbacks": list(callbacks), "enable_checkpointing": saves}
    own |= {"max_epochs": epochs, "default_root_dir": folder}
    return L.Trainer(accelerator="cpu", inference_mode=False, **own)


def test_a_stock_trainer_returns_the_score(tmp_path):
    learner, module = waves()
    trainer = stock(tmp_path)
    trainer.fit(learner, datamodule=module)
    assert trainer.global_step == 4
    [first], [again] = (trainer.test(learner, datamodule=module, verbose=False) for _ in range(2))
    _, scores, baselines, *_ = learner.test_rows.compute().T
    assert len(scores) == 7  # of the last test alone
    assert first == again
    assert first == {
        "test/mse": pytest.approx(scores.mean().item()),
        "test/support_mean": pytest.approx(baselines.mean().item()),
    }


class Seen(Callback):
    """The numbers of the training tasks, in order."""

    def __init__(self):
        self.tasks = []

    def on_train_batch_start(self, trainer, pl_module, batch, _):
        self.tasks += batch.tasks.tolist()


def two_epochs(saves, state=None):
    L.seed_everything(0, verbose=False)
    (learner, module), seen = waves(), Seen()
    trainer = stock(Path(str(saves.dirpath)), seen, saves, epochs=2)
    trainer.fit(learner, datamodule=module, ckpt_path=state, weights_only=True)
    return seen.tasks, learner


@pytest.mark.parametrize(
    ("how", "states"), [({"every_n_train_steps": 1}, 8), ({}, 2), ({"save_on_train_epoch_end": False}, 2)]
)
def test_a_second_epoch_has_new_tasks(how, states, tmp_path):
    """Also when resumed from a state of an update, of an epoch's end, or of the validation before it."""
    options = {"save_top_k": -1, "filename": "{step}"} | how
    saves = [ModelCheckpoint(tmp_path / name, **options) for name in ("one", "two")]
    tasks, whole = two_epochs(saves[0])
    assert tasks == list(range(16))
    kept = list((tmp_path / "one").glob("*.ckpt"))
    assert len(kept) == states
    for path in kept:
        done = int(path.stem.removeprefix("step="))
        seen, resumed = two_epochs(saves[1], path)
        assert seen == list(range(2 * done, 16)), path
        assert all(map(torch.equal, resumed.parameters(), whole.parameters())), path


def test_each_fit_begins_with_the_first_task(tmp_path):
    learner, module = waves()
    for _ in range(2):
        seen = Seen()
        stock(tmp_path, seen, epochs=2).fit(learner, datamodule=module)
        assert seen.tasks == list(range(16))


def saved(learner, folder):
    """A learner's checkpoint, which is also kept as x.ckpt."""
    trainer = stock(folder)
    trainer.strategy.connect(learner)
    trainer.save_checkpoint(folder / "x.ckpt", weights_only=True)
    return torch.load(folder / "x.ckpt", weights_only=True)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_learner_is_built_from_its_checkpoint(method, tmp_path):
    """Its hyperparameters are plain data: nothing is executed to read them."""
    learner = CLASSES[method](Task((1, 3, 3), 3, False), FC, **OPTIONS[method])
    kept = saved(learner, tmp_path)["hyper_parameters"]
    shape = {"input_shape": [1, 3, 3], "outputs": 3, "regression": False, "train_outputs": None}
    assert kept["task"] == shape
    again = type(learner).load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert again.task == Task((1, 3, 3), 3, False)
    assert {name: again.hparams[name] for name in kept} == kept
    assert all(torch.equal(again.state_dict()[name], value) for name, value in learner.state_dict().items())


RAN = []


def test_a_checkpoint_that_names_code_runs_nothing(tmp_path):
    """`_instantiator` is where Lightning before 2.6.6 took a function from (GHSA-qqmf-gpg7-g8gw)."""
    learner, _ = waves()
    checkpoint = saved(learner, tmp_path)
    checkpoint["hyper_parameters"]["_instantiator"] = f"{__name__}.RAN.append"
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="blocked"):
        type(learner).load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert load_weights(learner, tmp_path / "x.ckpt") == 0
    assert not RAN


def test_options_of_lightning_reach_it(tmp_path):
    """Those that change a score are part of what a run is; the others are not."""
    plain, clipped = config(tmp_path), config(tmp_path, "trainer.gradient_clip_val=1e-6")
    profiled = config(tmp_path, "trainer.detect_anomaly=true")
    assert run_folder(plain) == run_folder(profiled) != run_folder(clipped)
    assert config_diff(clipped)["trainer.gradient_clip_val"] == 1e-6
    scores = [train(cfg)["mean"] for cfg in (plain, clipped)]
    assert scores[0] != scores[1]
    best = CLASSES["lstm"].load_from_checkpoint(run_folder(clipped) / "best.ckpt", weights_only=True)
    assert best.hparams["passes"] == clipped.method.passes
    assert evaluate(evaluation(run_folder(clipped), tmp_path))["mean"] == pytest.approx(scores[1], rel=1e-6)


def test_the_names_of_run_folders_stay():
    """Else the same command would not find what an earlier version has trained."""
    for overrides, name in NAMES.items():
        assert run_folder(composed(overrides.split())).name == name
    more_ways = composed(["data=omniglot", "method=protonet", "data.train_ways=20"])
    assert run_folder(more_ways).name not in NAMES.values()
