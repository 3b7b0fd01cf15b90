"""A search's report: its trials by their best validation, and the command of the best one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import flatten
from fewshot.errors import UserError
from fewshot.options import as_told
from fewshot.report.figures import trials
from fewshot.report.runs import Cell
from fewshot.report.summary import carries
from fewshot.report.write import Report
from fewshot.results.statistics import largest_share


def validated(cfg: DictConfig) -> tuple[Any, ...]:
    """All that the validation of a trial depends on beside the method's settings and the seed."""
    data = OmegaConf.to_container(cfg.data, resolve=True)
    return (
        cfg.method.name,
        cfg.shots,
        cfg.variant,
        cfg.trainer.num_val_tasks,
        json.dumps(data, sort_keys=True),
    )


def searched(found: Sequence[Cell]) -> dict[str, list[Any]]:
    """The settings in which trials differ, by their dotted names: the value of each cell."""
    plain = [flatten(OmegaConf.to_container(cell.cfg, resolve=True)) for cell in found]
    own = ("method.", "backbone.")
    names = [name for name in plain[0] if name.startswith(own) and not name.endswith(".name")]
    return {n: [p.get(n) for p in plain] for n in names if len({as_told(p.get(n)) for p in plain}) > 1}


def as_numbers(settings: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The settings of trials; in the place of a list of layers' units their number and the first one's units."""
    found = dict[str, list[Any]]()
    for name, values in settings.items():
        if all(isinstance(value, list) for value in values):
            found |= {
                f"{name}: layers": [len(value) for value in values],
                f"{name}: units": [v[0] for v in values],
            }
        else:
            found[name] = values
    return {name: values for name, values in found.items() if len(set(map(as_told, values))) > 1}


def correlations(done: pd.DataFrame, settings: Mapping[str, list[Any]]) -> pd.DataFrame:
    """Spearman's rank correlation of each setting in numbers with the best validation."""
    ranked = done[[name for name in settings if pd.api.types.is_numeric_dtype(done[name])]]
    found = ranked.corrwith(done["best_validation"], method="spearman").dropna().sort_values(key=np.abs)[::-1]
    return pd.DataFrame({"": found.index.str.removeprefix("method."), "rho": found.map("{:+.2f}".format)})


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else as_told(value)


def report(title: str, study: str, found: Sequence[Cell], runs: pd.DataFrame) -> Report:
    """What is to be said of a search.

    Raises:
        UserError: its trials are of several tasks, among which none is the best.
    """
    if len({validated(cell.cfg) for cell in found}) > 1:
        raise UserError(
            f"{title}: trials are ranked within one method, data, shots and variant: name one of each"
        )
    settings = searched(found)
    drawn = as_numbers(settings)
    frame = runs[runs["data"] == runs["trained_on"]].reset_index(drop=True)
    numbers = [cell.cfg.get("trial", place) for place, cell in enumerate(found)]  # a grid has none
    frame = frame.drop(columns=["name"]).assign(trial=numbers, place=range(len(frame)), **drawn)
    done = frame[frame["scores"].notna()]
    kinds = frame[frame["scores"].isna()]["status"].value_counts()
    others = "".join(f"; {number} {status}" for status, number in kinds.items())
    words = [f"{len(done)} of {len(frame)} trials have a result{others}"]
    if done.empty:
        return Report(title, words=words)
    metric = done["metric"].iloc[0]
    done = done.sort_values("best_validation", ascending=metric == "mse")
    validation = done["best_validation"].map("{:.4g}".format)
    table = pd.DataFrame({"trial": done["trial"].astype(str), "best validation": validation})
    if done["seed"].nunique() > 1:
        table["seed"] = done["seed"].astype(str)
    for name, values in settings.items():
        table[name.removeprefix("method.")] = [short(values[place]) for place in done["place"]]
    table["minutes"] = (done["train_seconds"] / 60).map("{:.1f}".format)
    best = done.iloc[0]
    cell = found[int(best["place"])]
    tested = f"{best['mean']:.4g}" + ("" if pd.isna(best["ci95"]) else f" ± {best['ci95']:.2g}")
    words.append(f"best, by validation alone: trial {best['trial']}; its test on {best['data']}: {tested}")
    words.append(cell.command)
    if metric == "mse" and carries(worst := largest_share(best["scores"]), len(best["scores"])):
        median = np.median(best["scores"])
        words.append(
            f"one task of {len(best['scores']):,} carries {worst:.0%} of that test; the median is {median:.3g}"
        )
    figures = {f"{study}-trials": trials(done, list(drawn), metric, title)} if drawn else {}
    tables = {"trials, by their best validation": table}
    if len(done) > 2 and len(ranked := correlations(done, drawn)):
        tables["rank correlation with it: Spearman's, over trials"] = ranked
    return Report(title, tables, words=words, figures=figures)
