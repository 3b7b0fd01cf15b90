"""What a run's folder holds already: a finished run is shown, not repeated."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fewshot.config.eval_config import further_tests
from fewshot.data.images import full_name
from fewshot.errors import UserError
from fewshot.results.record import final_result, show


def kept_result(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The result of a run that has one and need not run; None otherwise, or with `cfg.overwrite`."""
    kept = None if cfg.overwrite else final_result(folder)
    refuse_unmeasured(cfg, folder, kept is not None)
    return kept


def show_kept(cfg: DictConfig, result: dict[str, Any], folder: Path) -> None:
    print(f"already {result['status']}; overwrite=true runs it anew", file=sys.stderr)
    if cfg.predictions and result["status"] == "finished" and not (folder / "predictions.csv").exists():
        print(f"its predictions: python evaluate.py run={folder} predictions=true", file=sys.stderr)
    show(result, folder)


def refuse_unmeasured(cfg: DictConfig, folder: Path, done: bool) -> None:
    definition = cfg.trainer.similarity
    begun = not cfg.overwrite and (done or (folder / "last.ckpt").exists())
    if begun and definition != "none" and not measured(folder / "metrics.csv", definition):
        raise UserError(
            f"the run of {folder} began without trainer.similarity={definition}, which is measured during training: "
            f"overwrite=true runs it anew, or leave it out"
        )


def measured(metrics: Path, definition: str) -> bool:
    """Whether a run's `metrics.csv` holds a similarity from its first point on."""
    return metrics.exists() and f"\n0,0,similarity_{definition}/" in metrics.read_text(errors="replace")


def untested(cfg: DictConfig, result: dict[str, Any]) -> dict[str, DictConfig]:
    """The tests on `data.test` that the result of a finished run does not hold yet, by the names of their tables."""
    further = further_tests(cfg) if result["status"] == "finished" else []
    named = {table_of(tested): tested for tested in further}
    return {name: tested for name, tested in named.items() if name not in result.get("tests", {})}


def table_of(cfg: DictConfig) -> str:
    return full_name(cfg.data.name, Path(cfg.data.path) if "path" in cfg.data else None)
