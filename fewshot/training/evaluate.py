"""The tests of a run: its own, right after training, and later ones on its own data or another's."""

import math
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fewshot.config.eval_config import eval_config, load_config, protocol, same_data
from fewshot.config.run_id import table_name
from fewshot.config.settings import check_values
from fewshot.data.datamodule import EpisodicDataModule
from fewshot.errors import optional
from fewshot.files import atomic_write
from fewshot.methods import MetaLearner
from fewshot.plots import curves, episodes, similarity
from fewshot.results import predictions
from fewshot.results import record as results
from fewshot.results.environment import environment
from fewshot.results.statistics import diagnostics
from fewshot.training.build import make_datamodule, make_learner, make_trainer, prepare_process
from fewshot.training.checkpoints import load_weights
from fewshot.training.folder import check_split, stored_split

Result = dict[str, Any]


def evaluate(cfg: DictConfig) -> Result:
    """Tests `cfg.run` as `cfg` of evaluate.py says, and keeps the result in `evaluations` of its folder.

    Raises UserError where the run or the data cannot be used, Diverged where a score is not finite.
    """
    check_values(cfg)
    trained = load_config(Path(cfg.run))
    return test_run(Path(cfg.run), trained, eval_config(cfg, trained), cfg.pictures)


def test_run(folder: Path, trained: DictConfig, tested: DictConfig, pictures: bool = False) -> Result:
    """Tests the best state of the run of `folder`, trained as `trained` says, as `tested` says."""
    prepare_process(tested.trainer.num_threads)
    settings = {name: tested.trainer[name] for name in ("accelerator", "precision", "enable_progress_bar")}
    trainer = make_trainer(**settings, logger=False, enable_checkpointing=False)
    datamodule, table = make_datamodule(tested, "test"), table_name(tested)
    if own := same_data(trained, tested.data.name, tested.data.get("path")):
        check_split(folder, datamodule.source)
    learner = make_learner(tested, datamodule.source.task, trained=True)
    best_step = load_weights(learner, folder / "best.ckpt", tested.method.name)
    result = results.describe(trained, learner, stored_split(folder).get("table")) | protocol(tested)
    if learner.uses_backbone:
        result["bn"] = tested.backbone.get("bn", "none")
    trainer.test(learner, datamodule=datamodule, verbose=False)
    run = results.read_result(folder / "result.json") or {"status": "unfinished"}
    result |= {"status": "finished", "run": folder.name, "run_status": run["status"], "best_step": best_step}
    scores = results.scored(learner)
    result |= scores.summary | environment(trainer) | ({} if own else {"data": table})
    place = folder / "evaluations" / results.name_of_test(result, table)
    place.parent.mkdir(exist_ok=True)
    results.write_scores(Path(f"{place}.csv"), scores)
    predicted = keep_predictions(f"{place}-", datamodule, learner, result) if tested.predictions else None
    if pictures:
        print(*episodes.draw_all(learner, datamodule, place, results.title_of(result)), sep="\n")
    if trained.logger.name == "wandb":
        from fewshot.training import wandb_log

        with optional("logging to W&B"):
            log = wandb_log.start_wandb(trained, folder, place.name)
            wandb_log.log_test(log, f"test/{table}", result, scores, predicted)
        end_wandb()
    results.write_json(Path(f"{place}.json"), result)
    results.show(result, Path(f"{place}.json"))
    predictions.show_predictions(predicted)
    return result


def record(
    cfg: DictConfig, folder: Path, datamodule: EpisodicDataModule, learner: MetaLearner, result: Result
) -> None:
    """Keeps the result of a run, tested just now, in its folder and in W&B, and prints it."""
    figures, predicted, scores = [], None, None
    if result["status"] == "finished":
        scores = results.scored(learner)
        results.write_scores(folder / "test_scores.csv", scores)
        predicted = keep_predictions(f"{folder}/", datamodule, learner, result) if cfg.predictions else None
        with optional("drawing"):
            figures = draw(cfg, folder, datamodule, learner, results.title_of(result))
    result["interpretability"] = {}
    with optional("interpretability()"):
        metrics = learner.interpretability().items()
        result["interpretability"] = {name: float(value) for name, value in metrics if math.isfinite(value)}
    result["warnings"] = diagnostics(result)
    if cfg.logger.name == "wandb":
        from fewshot.training import wandb_log

        with optional("logging to W&B"):
            log = wandb_log.wandb.run
            wandb_log.log_result(log, result, figures, cfg.logger.pictures)
            if scores is not None:
                wandb_log.log_test(log, "test", result, scores, predicted)
                if cfg.logger.checkpoint:
                    wandb_log.log_checkpoint(log, folder / "best.ckpt", result)
    results.write_json(folder / "result.json", result)
    results.show(result, folder)
    predictions.show_predictions(predicted)


def keep_predictions(
    beside: str, datamodule: EpisodicDataModule, learner: MetaLearner, result: Result
) -> Any:
    """Writes the predictions of the last test and a confusion matrix to paths that begin with `beside`."""
    predicted = predictions.predictions_of(learner, datamodule)
    atomic_write(Path(f"{beside}predictions.csv"), predicted.to_csv(index=False, lineterminator="\n"))
    if not learner.task.regression:
        figure = predictions.confusion_figure(predicted, results.title_of(result))
        episodes.save_figure(figure, Path(f"{beside}confusion"))
    return predicted


def draw(
    cfg: DictConfig, folder: Path, datamodule: EpisodicDataModule, learner: MetaLearner, title: str
) -> list[Any]:
    """Saves test tasks, the learning curve and, if it was measured, Figure 6; returns `test_figures`."""
    figures = episodes.test_figures(learner, datamodule, title=title)
    for task, _, figure in figures:
        episodes.save_figure(figure, folder / f"test_task_{task}")
    metrics, definition = folder / "metrics.csv", cfg.trainer.similarity
    if metrics.exists():
        episodes.save_figure(curves.learning_curve(metrics, title), folder / "learning_curve")
    if definition != "none":
        figure = similarity.similarity_figure([curves.read_curves(metrics)], definition, title)
        episodes.save_figure(figure, folder / f"similarity-{definition}")
    return figures


def end_wandb() -> None:
    """Ends the current W&B run, if any: the next job of a multirun has its own."""
    if wandb := sys.modules.get("wandb"):
        with optional("ending the run in W&B"):
            wandb.finish()
