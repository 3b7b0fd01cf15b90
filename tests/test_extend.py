"""A run continues a finished shorter one to the result, bit for bit, of a run that was never shorter."""

import json
import shutil

import pytest
import torch

from fewshot.config.run_id import run_folder
from fewshot.training.run import run
from tests.helpers import check_same, config, contents, images_of, kill_at

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Outputs with a run of 20 updates, and in a folder of its own one of 40."""
    folder = tmp_path_factory.mktemp("extend")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot.training.evaluate.draw_figures", lambda *_: {})
        run(config(folder, "trainer.max_steps=20"))
        run(config(folder, outputs="alone"))
    return folder


def check_continued(cfg, alone):
    """That all is the same, also the last state with its optimiser's."""
    check_same(cfg, alone)
    last = [torch.load(run_folder(c) / "last.ckpt", weights_only=True) for c in (cfg, alone)]
    for key in ("state_dict", "optimizer_states", "global_step", "loops"):
        assert str(last[0][key]) == str(last[1][key])


@pytest.mark.parametrize(("updates", "killed"), [(20, 0), (25, 31)])
def test_a_longer_run_continues(updates, killed, finished, tmp_path, monkeypatch):
    """Also from a length that is no multiple of val_check_interval, and where it is killed and resumed."""
    short, cfg = config(tmp_path, f"trainer.max_steps={updates}"), config(tmp_path)
    run(short)
    before = contents(run_folder(short))
    if killed:
        kill_at(killed, cfg, monkeypatch)
    check_continued(cfg, config(finished, outputs="alone"))
    assert contents(run_folder(short)) == before


def test_the_longest_shorter_run_continues_on_images(tmp_path, capfd):
    small = [*images_of(tmp_path), "method=protonet", "trainer.num_val_tasks=4"]
    runs = [config(tmp_path, *small, f"trainer.max_steps={updates}") for updates in (10, 15, 30, 20)]
    for cfg in runs:
        run(cfg)
    assert f"\ncontinues {run_folder(runs[1])}\n" in capfd.readouterr().err
    check_continued(runs[3], config(tmp_path, *small, "trainer.max_steps=20", outputs="alone"))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("trainer.eval_batch_size=6", "another eval_batch_size"),
        ("threads", "another threads"),
        ("update", "another update"),
        ("overwrite=true", ""),
        ("metrics.csv", ""),
    ],
)
def test_where_it_would_differ_it_starts_from_scratch(what, said, finished, tmp_path, capfd):
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    folder = run_folder(config(tmp_path, "trainer.max_steps=20"))
    if what == "metrics.csv":
        (folder / what).unlink()
    changed = json.loads((folder / "result.json").read_text()) | {what: 7}
    (folder / "result.json").write_text(json.dumps(changed))
    before = contents(folder)
    run(config(tmp_path, what if "=" in what else "seed=0"))
    err = capfd.readouterr().err
    assert said in err
    assert "\ncontinues" not in err
    assert "update 0 of 40" in err
    assert contents(folder) == before
