"""The tests of a run: its own, right after training, and later ones on its own data or another's.

The run's folder, or one in `evaluations` in it, keeps a test, in files of the same names.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import DictConfig
from pandas import DataFrame

from fewshot.config.run_id import eval_config, load_config, same_data, table_name
from fewshot.config.settings import check_values
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.data.row_source import RowSource
from fewshot.errors import optional
from fewshot.files import atomic_write
from fewshot.methods import OPLSTM, MetaLearner
from fewshot.plots import curves, episodes
from fewshot.results.environment import environment
from fewshot.results.predictions import confusion_figure, confusions, predictions_of, show_predictions
from fewshot.results.record import Result, describe, name_of_test, read_result, scored, show, title_of
from fewshot.training.build import make_datamodule, make_learner, make_trainer, prepare_process
from fewshot.training.folder import load_weights, stored_split


def evaluate(cfg: DictConfig) -> Result:
    """Tests `cfg.run` as `cfg` of evaluate.py says, and keeps the result in `evaluations` of its folder.

    Raises UserError where the run or the data cannot be used, Diverged where a score is not finite.
    """
    check_values(cfg)
    trained = load_config(Path(cfg.run))
    return run_test(Path(cfg.run), trained, eval_config(cfg, trained), cfg.pictures)


def run_test(folder: Path, trained: DictConfig, tested: DictConfig, pictures: bool = False) -> Result:
    """Tests the best state of the run of `folder`, trained as `trained` says, as `tested` says."""
    prepare_process(tested.trainer.num_threads)
    tested.trainer.devices = 1
    trainer = make_trainer(tested, folder)
    datamodule = make_datamodule(tested, "test")
    own = same_data(trained, tested.data.name, tested.data.get("path"))
    if own and tested.data.name == "arrays":  # whose content may have changed
        own = stored_split(folder, None).get("table") == table_name(tested)
    split = stored_split(folder, datamodule.source if own else None)
    datamodule.source.standardise(split.get("scales", {}))
    if not own and isinstance(datamodule.source, RowSource):
        seen = {name for name, _ in split.get("train", [])} & {*datamodule.source.table.splits["test"]}
        if seen:
            said = f"{len(seen)} test classes have names of the run's training classes, as {min(seen)}"
            print(said, file=sys.stderr)
    learner = make_learner(tested, datamodule.source.task, trained=True)
    best_step = load_weights(learner, folder / "best.ckpt")
    result = describe(trained, tested, learner, split.get("table"))
    trainer.test(learner, datamodule=datamodule, verbose=False)
    run = read_result(folder) or {"status": "unfinished"}
    result |= {"status": "finished", "run": folder.name, "run_status": run["status"], "best_step": best_step}
    if not own:
        result["data"] = table_name(tested)
    place = folder / "evaluations" / name_of_test(result)
    record(trained, place, trainer, result, pictures=pictures, predictions=tested.predictions)
    return result


def record(
    cfg: DictConfig, folder: Path, trainer: Any, result: Result, *, pictures: bool, predictions: bool
) -> None:
    """Keeps the test that `trainer` has just made of the run of `cfg` in `folder` and in W&B, and prints it.

    `result` has what is known of the run, and gets the rest. result.json comes last: then all is kept.
    """
    learner, datamodule = trainer.lightning_module, trainer.datamodule
    tables, drawn = dict[str, DataFrame](), dict[str, Figure]()
    result |= environment(trainer)
    if result["status"] == "finished":
        summary, tables["task_scores"] = scored(learner)
        result |= summary
        folder.mkdir(parents=True, exist_ok=True)
        scores = tables["task_scores"].to_csv(index=False, columns=["task", "score"])
        atomic_write(folder / "test_scores.csv", scores)
        if predictions:
            predicted = predictions_of(learner, datamodule)
            atomic_write(folder / "predictions.csv", predicted.to_csv(index=False))
            if not learner.task.regression:
                tables["confusion"] = confusions(predicted)
                episodes.save_figure(confusion_figure(predicted, title_of(result)), folder / "confusion")
                show_predictions(predicted)
        if pictures:
            with optional("drawing"):
                drawn = draw_figures(folder, datamodule, learner, title_of(result), cfg.trainer.similarity)
    if cfg.logger.name == "wandb":
        from fewshot.training import wandb_log

        with optional("logging to W&B"):
            wandb_log.log(cfg, folder, result, tables, drawn)
    atomic_write(folder / "result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    show(result, folder)


def draw_figures(
    folder: Path, datamodule: EpisodicDataModule, learner: MetaLearner, title: str, definition: str
) -> dict[str, Figure]:
    """Saves figures of a test and, if it is the run's own, of its training; returns those of test tasks."""
    drawn, metrics = {}, folder / "metrics.csv"
    for task, score, figure in episodes.task_figures(learner, datamodule, title=title):
        episodes.save_figure(figure, folder / f"test_task_{task}")
        drawn[f"test task {task}: {score:.4g}"] = figure
    if isinstance(learner, OPLSTM):
        episodes.save_figure(episodes.weights_figure(learner, datamodule, title), folder / "weights")
    if metrics.exists():
        episodes.save_figure(curves.learning_curve(metrics, title), folder / "learning_curve")
        if definition != "none":
            figure = curves.similarity_figure([curves.read_curves(metrics)], definition, title)
            episodes.save_figure(figure, folder / f"similarity-{definition}")
    return drawn
