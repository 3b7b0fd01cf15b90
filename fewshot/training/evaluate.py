"""Tests the best validated state of a run's folder, on its own data or another's."""

import sys
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig
from pandas import DataFrame

from fewshot.config.checks import check_evaluation
from fewshot.config.eval_config import eval_config, load_config, same_data
from fewshot.config.run_id import table_name
from fewshot.errors import UserError, brief
from fewshot.methods import MetaLearner
from fewshot.plots.confusion import confusion_figure
from fewshot.plots.episodes import draw_all, save_figure
from fewshot.results.environment import environment
from fewshot.results.predictions import predictions_of, show_predictions, write_predictions
from fewshot.results.record import (
    Scores,
    describe,
    name_of_test,
    read_result,
    scored,
    show,
    title_of,
    write_json,
    write_scores,
)
from fewshot.training.build import (
    keep_freed_memory,
    make_datamodule,
    make_learner,
    make_trainer,
    print_note,
    set_threads,
)
from fewshot.training.checkpoints import load_weights
from fewshot.training.loggers import end_wandb, quiet, start_wandb
from fewshot.training.split import check_split, print_trained_classes, stored_table

IN_RESULT = ("metric", "mean", "ci95", "tasks", "baselines", "shots", "ways", "test_queries", "best_step")


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Tests `cfg.run` as `cfg` of evaluate.py says.

    The result is kept in the run's folder, under `evaluations/`, and in W&B if the run was logged there. A
    test on another data set, in the run's own shots and the usual number of tasks and queries, also becomes
    an entry under `tests` in the run's `result.json`.
    """
    quiet()
    check_evaluation(cfg)
    trained = load_config(Path(cfg.run))
    tested = eval_config(cfg, trained)
    usual = all(cfg[name] is None for name in ("shots", "queries", "ways", "tasks", "bn"))
    in_result = usual and not same_data(trained, tested)
    options = {"pictures": cfg.pictures, "predictions": cfg.predictions, "bn": cfg.bn}
    try:
        return evaluate_on(Path(cfg.run), trained, tested, in_result, **options)
    except OSError as error:
        raise UserError(f"not everything could be read or written: {error}") from error


def evaluate_on(
    folder: Path,
    trained: DictConfig,
    tested: DictConfig,
    in_result: bool,
    pictures: bool = False,
    bn: str | None = None,
    predictions: bool = False,
    wandb: Any = None,
) -> dict[str, Any]:
    """Tests the run of `folder`, trained as `trained` says, as `tested` says.

    Args:
        in_result: whether to keep the result also under `tests` in the run's `result.json`.
        pictures: whether to draw test tasks.
        bn: "support" normalises the queries by the support set, although the run was trained otherwise.
        predictions: whether to keep the prediction of every query, and to draw a confusion matrix.
        wandb: the run's W&B run, where it is still open; otherwise the test has one of its own.

    Raises:
        UserError: the run or the data cannot be used. Diverged: a score is not finite; nothing is kept.
    """
    set_threads(tested.trainer.num_threads)
    keep_freed_memory()
    bar = tested.trainer.enable_progress_bar
    trainer = make_trainer(
        trained.method.name,
        accelerator=tested.trainer.accelerator,
        precision=trained.trainer.precision,
        logger=False,
        callbacks=[RichProgressBar(refresh_rate=5)] if bar else [],
        enable_progress_bar=bar,
        enable_checkpointing=False,
    )
    datamodule = make_datamodule(tested, "test")
    print_note(tested, datamodule.source)
    if same_data(trained, tested):
        check_split(folder, datamodule.source)
    else:
        print_trained_classes(folder, datamodule.source)
    learner = make_learner(trained, datamodule.source.task, trained=True)
    best_step = load_weights(learner, folder / "best.ckpt", trained.method.name)
    table, description = table_name(tested), describe(trained, learner, stored_table(folder))
    if bn == "support":
        normalise_by_support(learner)
        description["bn"] = bn
    status = (read_result(folder / "result.json") or {}).get("status", "unfinished")
    if status != "finished":
        print(
            f"the run is {status}: this is its best state so far, after update {best_step}", file=sys.stderr
        )
    trainer.test(learner, datamodule=datamodule, verbose=False)
    scores = scored(learner)
    predicted = predictions_of(learner, datamodule) if predictions else None
    result = {"status": "finished"} | description | scores.summary | environment(trainer)
    result |= {"run": folder.name, "run_status": status, "best_step": best_step, "shots": tested.shots}
    result |= {"ways": tested.data.get("ways", 1), "test_queries": tested.data.test_queries}
    if not same_data(trained, tested):
        result["data"] = table
    place = folder / "evaluations" / f"{name_of_test(result, table)}.json"
    show(result, place)
    show_predictions(predicted)
    place.parent.mkdir(exist_ok=True)
    with FileLock(place.parent / ".lock"):  # several may test one run at once
        keep(place, result, scores, predicted, table if in_result else None)
        if pictures:
            for path in draw_all(learner, datamodule, place.with_suffix(""), title_of(result)):
                print(path)
    if trained.logger.name == "wandb":
        log_to_wandb(folder, trained, table, result, scores, predicted, wandb, place.stem)
    return result


def normalise_by_support(learner: MetaLearner) -> None:
    """Makes a trained learner normalise queries by the support set; UserError without batch norm."""
    body: Any = getattr(learner, "body", None)
    if getattr(body, "bn", "none") in ("none", "stored"):
        raise UserError("bn=support: the run's backbone has no batch norm, or stored statistics (bn=stored)")
    body.bn = "support"


def keep(
    place: Path, result: dict[str, Any], scores: Scores, predictions: DataFrame | None, entry: str | None
) -> None:
    """Keeps a test beside the run, and as `entry` in the run's own result."""
    write_scores(place.with_suffix(".csv"), scores)
    write_json(place, result)
    own = place.parent.parent / "result.json"
    run = read_result(own) if entry else None
    if run is not None and run.get("best_step") == result["best_step"]:  # not of a state that is no more
        tests = run.get("tests", {}) | {entry: {name: result[name] for name in IN_RESULT}}
        write_json(own, run | {"tests": tests})
    if predictions is not None:
        write_predictions(place.with_name(f"{place.stem}-predictions.csv"), predictions)
        if "true" in predictions:
            figure = confusion_figure(predictions, title_of(result))
            save_figure(figure, place.with_name(f"{place.stem}-confusion"))


def log_to_wandb(
    folder: Path,
    trained: DictConfig,
    table: str,
    result: dict[str, Any],
    scores: Scores,
    predictions: DataFrame | None,
    wandb: Any,
    name: str,
) -> None:
    """Logs a test to `wandb`, the run's open W&B run, or else to a W&B run of its own."""
    from fewshot.training.wandb_log import log_test

    try:
        log = wandb or start_wandb(trained, folder, name)
        log_test(log, f"test/{table}", result, scores, predictions)
        if wandb is None:
            end_wandb()
    except Exception as error:
        print(f"W&B did not take the result: {brief(error, 200)}", file=sys.stderr)
