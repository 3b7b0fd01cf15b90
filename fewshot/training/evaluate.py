"""Tests the best validated state of a run's folder, on its own data or another's."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
from filelock import FileLock
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig
from pandas import DataFrame

from fewshot.config.eval_config import same_data, trained_and_tested
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import Diverged, UserError
from fewshot.memory import forget_peak_memory, keep_freed_memory
from fewshot.methods.base import MetaLearner
from fewshot.plots.adaptation import draw_all
from fewshot.plots.confusion import confusion_figure
from fewshot.plots.episodes import save_figure
from fewshot.results.environment import environment
from fewshot.results.predictions import predictions_of, show_predictions, write_predictions
from fewshot.results.record import (
    Scores,
    describe,
    read_result,
    scored,
    show,
    name_of_test,
    title_of,
    write_json,
    write_scores,
)
from fewshot.training.build import (
    announced,
    make_datamodule,
    make_learner,
    make_lightning,
    make_source,
    use_threads,
)
from fewshot.training.checkpoints import load_weights
from fewshot.training.finished import table_of
from fewshot.training.loggers import end_wandb, quiet, staged_in, start_wandb
from fewshot.training.split import check_split, kept_table, tell_of_trained_classes

TESTED = ("metric", "mean", "ci95", "tasks", "baselines", "shots", "ways", "test_queries", "best_step")


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Tests `cfg.run` as `cfg` says and keeps the result in the run's folder, under `evaluations/`, and in W&B if
    the run was logged there.

    A test on another data set, in the run's own shots and the usual number of tasks and queries, also becomes an entry
    under `tests` in the run's `result.json`.
    """
    quiet()
    folder = Path(cfg.run)
    trained, tested = trained_and_tested(cfg)
    usual = all(cfg[key] is None for key in ("shots", "queries", "ways", "tasks", "bn"))
    entry = table_of(tested) if usual and not same_data(trained, tested) else None
    wanted = {"pictures": cfg.pictures, "predictions": cfg.predictions, "bn": cfg.bn}
    return evaluate_on(folder, trained, tested, entry=entry, **wanted)


def evaluate_on(
    folder: Path,
    trained: DictConfig,
    tested: DictConfig,
    entry: str | None,
    pictures: bool = False,
    bn: str | None = None,
    predictions: bool = False,
    run: Any = None,
) -> dict[str, Any]:
    """Tests the run of `folder`, trained as `trained` says, as `tested` says; keeps nothing of a test that diverged.

    Args:
        entry: the name under which the result is also kept in `tests` of the run's `result.json`.
        pictures: whether to draw test tasks.
        bn: "support" normalises the queries by the support set, although the run was trained otherwise.
        predictions: whether to keep the prediction of every query, and to draw a confusion matrix.
        run: the run's W&B run, where it is still going on; otherwise the test has one of its own.
    """
    trainer, learner, datamodule, best_step = prepare_test(folder, trained, tested)
    table, description = (
        table_of(tested),
        describe(trained, learner, kept_table(folder)),
    )  # may fail: before the test
    if bn == "support":
        normalise_by_support(learner)
        description["bn"] = bn
    status = (read_result(folder / "result.json") or {}).get("status", "unfinished")
    if status != "finished":
        print(
            f"the run is {status}: this is its best state so far, after update {best_step}", file=sys.stderr
        )
    forget_peak_memory()
    learner.keep_predictions = predictions
    try:
        scores = test(trainer, learner, datamodule)
    except Diverged as error:
        print(f"{error}: this state has no mean on these tasks", file=sys.stderr)
        return {"status": "diverged", "reason": str(error)}
    result = {"status": "finished"} | description | scores.summary
    result |= environment(trainer) | {"run": folder.name, "run_status": status, "best_step": best_step}
    result |= {"data": trained.data.name if same_data(trained, tested) else table, "shots": tested.shots}
    result |= {"ways": tested.data.get("ways", 1), "test_queries": tested.data.test_queries}
    place = keep(folder, table, result, scores, entry)
    predicted = predictions_of(learner, datamodule) if predictions else None
    if place and trained.logger.name == "wandb":
        tell_wandb(folder, trained, table, result, scores, predicted, run, place.stem)
    show(result, place)
    show_predictions(predicted)
    if predicted is not None and place:
        with FileLock(place.parent / ".lock"):
            print(keep_predictions(place, predicted, title_of(result)))
    if pictures and place:
        with FileLock(place.parent / ".lock"):
            for path in draw_all(learner, datamodule, place.with_suffix(""), title_of(result)):
                print(path)
    return result


def prepare_test(
    folder: Path, trained: DictConfig, tested: DictConfig
) -> tuple[L.Trainer, MetaLearner, EpisodicDataModule, int]:
    """Trainer, learner with its best weights, test tasks, and the update that the weights are from."""
    use_threads(tested.trainer.num_threads)
    keep_freed_memory()
    trainer = make_lightning(
        trained.method.name,
        accelerator=tested.trainer.accelerator,
        precision=trained.trainer.precision,
        logger=False,
        callbacks=[RichProgressBar(refresh_rate=5)] if tested.trainer.enable_progress_bar else [],
        enable_progress_bar=tested.trainer.enable_progress_bar,
        enable_checkpointing=False,
    )
    source = announced(tested.data.name, make_source(tested))
    if same_data(trained, tested):
        check_split(folder, source)
    else:
        tell_of_trained_classes(folder, source)
    learner = make_learner(trained, source.task, trained=True)
    try:
        best_step = load_weights(learner, folder / "best.ckpt", trained.method.name)
    except UserError as error:
        raise UserError(f"{error}; train.py with overwrite=true makes it anew") from error
    return trainer, learner, make_datamodule(tested, source, ["test"]), best_step


def normalise_by_support(learner: MetaLearner) -> None:
    """Makes a trained learner normalise queries by the support set; UserError without batch norm of its own."""
    body: Any = getattr(learner, "body", None)
    bn = getattr(body, "bn", "none")
    if bn in ("none", "stored"):
        why = "no batch norm" if bn == "none" else "stored statistics (bn=stored)"
        raise UserError(f"bn=support: the run has {why}: leave it out")
    body.bn = "support"


def test(trainer: L.Trainer, learner: MetaLearner, datamodule: EpisodicDataModule) -> Scores:
    """The scores of the test tasks; Diverged where one is not finite."""
    trainer.test(learner, datamodule=datamodule, verbose=False)
    return scored(learner)


def keep(folder: Path, table: str, result: dict[str, Any], scores: Scores, entry: str | None) -> Path | None:
    """Where the result is kept; None, and a line that says why, where it cannot be."""
    kept = folder / "evaluations" / f"{name_of_test(result, table)}.json"
    try:
        kept.parent.mkdir(exist_ok=True)
        with FileLock(kept.parent / ".lock"):  # several may test one run at once
            write_scores(kept.with_suffix(".csv"), scores)
            write_json(kept, result)
            whole = read_result(folder / "result.json") if entry else None
            if (
                whole is not None and whole.get("best_step") == result["best_step"]
            ):  # not of a state that is no more
                entries = whole.get("tests", {}) | {entry: {key: result[key] for key in TESTED}}
                write_json(folder / "result.json", whole | {"tests": entries})
    except OSError as error:
        print(f"not everything was kept in {kept.parent}: {error}", file=sys.stderr)
        return None
    return kept


def keep_predictions(place: Path, predictions: DataFrame, title: str) -> Path:
    """Where the predictions are kept, a table and for classes a figure, beside the result's own file `place`."""
    kept = place.with_name(f"{place.stem}-predictions.csv")
    write_predictions(kept, predictions)
    if "true" in predictions:
        save_figure(confusion_figure(predictions, title), place.with_name(f"{place.stem}-confusion"))
    return kept


def tell_wandb(
    folder: Path,
    trained: DictConfig,
    table: str,
    result: dict[str, Any],
    scores: Scores,
    predictions: DataFrame | None,
    run: Any,
    name: str,
) -> None:
    """Logs a test of the run of `folder` on a table; in a W&B run of the test's own, by its name, without `run`."""
    from fewshot.training.wandb_log import log_predictions, log_tasks, log_test

    try:
        with staged_in(folder):
            log = run or start_wandb(trained, folder, name)
            log_test(log, f"test/{table}", result)
            log_tasks(log, f"test/{table}", scores)
            log_predictions(log, f"test/{table}", predictions)
            if run is None:
                end_wandb()
    except Exception as error:  # a score does not fall with W&B
        print(f"W&B did not take the result: {type(error).__name__}: {error}", file=sys.stderr)
