"""A search's report: its trials by their best validation, and the command of the best one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from fewshot.errors import UserError
from fewshot.report.figures import trials
from fewshot.report.jobs import Job
from fewshot.report.table import one_task
from fewshot.report.write import Report
from fewshot.results.record import as_override


def settings_of(jobs: Sequence[Job]) -> pd.DataFrame:
    """The settings of method and backbone in which the jobs differ, by dotted names, one row per job."""
    plain = pd.json_normalize([OmegaConf.to_container(job.cfg, resolve=True) for job in jobs])
    own = plain.filter(regex=r"^(method|backbone)\..*(?<!\.name)$")
    return own.loc[:, own.astype(str).nunique() > 1]


def as_numbers(settings: pd.DataFrame) -> pd.DataFrame:
    """A list of layer sizes becomes two numbers: how many layers there are, and the size of the first."""
    columns = dict[str, Any]()
    for name, values in settings.items():
        if values.map(lambda value: isinstance(value, list)).all():
            columns |= {f"{name}: layers": values.str.len(), f"{name}: units": values.str[0]}
        else:
            columns[str(name)] = values
    frame = pd.DataFrame(columns, index=settings.index)
    return frame.loc[:, frame.astype(str).nunique() > 1]


def correlations(done: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """Spearman's rank correlation of each numeric setting with the best validation, the strongest first."""
    numeric = done[list(settings)].select_dtypes(["number", "bool"])
    rho = numeric.corrwith(done["best_validation"], method="spearman").dropna().sort_values(key=np.abs)[::-1]
    return pd.DataFrame({"": rho.index.str.removeprefix("method."), "rho": rho.map("{:+.2f}".format)})


def as_short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else as_override(value)


def report(title: str, study: str, jobs: Sequence[Job], runs: pd.DataFrame) -> Report:
    """A search's report.

    Raises:
        UserError: the trials are of several data sets, methods or tasks, which have no common best.
    """
    kinds = {str((job.cfg.method.name, job.cfg.shots, job.cfg.variant, job.cfg.data)) for job in jobs}
    if len(kinds) > 1:
        raise UserError(f"{title}: trials are ranked within one method, data, shots and variant: choose one")
    settings = settings_of(jobs)
    numbers = as_numbers(settings)
    own = runs[runs["data"] == runs["trained_on"]].reset_index(drop=True).join(numbers)
    own["trial"] = [job.cfg.get("trial", place) for place, job in enumerate(jobs)]  # a grid has no trials
    done, metric = own[own["scores"].notna()], jobs[0].metric
    counts = own.loc[own["scores"].isna(), "status"].value_counts()
    others = "".join(f"; {count} {status}" for status, count in counts.items())
    said = Report(title, notes=[f"{len(done)} of {len(own)} trials have a result{others}"])
    if done.empty:
        return said
    done = done.sort_values("best_validation", ascending=metric == "mse")
    best = done.iloc[0]
    ci95 = "" if pd.isna(best["ci95"]) else f" ± {best['ci95']:.2g}"
    test = f"its test on {best['data']}: {best['mean']:.4g}{ci95}"
    said.notes.append(f"best, by validation alone: trial {best['trial']}; {test}")
    said.notes.append(jobs[done.index[0]].command)
    if not np.isnan(share := one_task(best["scores"], metric)):
        median = np.median(best["scores"])
        said.notes.append(f"one task has {share:.0%} of the error of that test; the median is {median:.3g}")
    shown = {"trial": done["trial"].astype(str)}
    shown["best validation"] = done["best_validation"].map("{:.4g}".format)
    if done["seed"].nunique() > 1:
        shown["seed"] = done["seed"].astype(str)
    for name in settings:
        values = settings.loc[done.index, name]
        shown[name.removeprefix("method.")] = values.map(as_short)
    shown["minutes"] = (done["train_seconds"] / 60).map("{:.1f}".format)
    said.tables["trials, by their best validation"] = pd.DataFrame(shown)
    ranked = correlations(done, list(numbers))
    if len(done) > 2 and len(ranked):
        said.tables["rank correlation with it: Spearman's, over trials"] = ranked
    if len(numbers.columns):
        said.figures[f"{study}-trials"] = trials(done, list(numbers), metric, title)
    return said
