"""A search's report: its trials by their best validation, and the command of the best one."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from fewshot.errors import UserError
from fewshot.report.figures import trials
from fewshot.report.jobs import Job
from fewshot.report.write import Report
from fewshot.results.record import as_override


def settings_of(jobs: Sequence[Job]) -> pd.DataFrame:
    """The settings of method and backbone in which the jobs differ, by dotted names, one row per job."""
    plain = pd.json_normalize([OmegaConf.to_container(job.cfg, resolve=True) for job in jobs])
    own = plain.filter(regex=r"^(method|backbone)\..*(?<!\.name)$")
    return own.loc[:, own.astype(str).nunique() > 1]


def as_numbers(settings: pd.DataFrame) -> pd.DataFrame:
    """A list of layer sizes becomes two numbers: how many layers there are, and the size of the first."""
    frame = settings.copy()
    for name in settings:
        if isinstance(settings[name].iloc[0], list):
            lists = frame.pop(name)
            frame[f"{name}: layers"], frame[f"{name}: units"] = lists.str.len(), lists.str[0]
    return frame.loc[:, frame.astype(str).nunique() > 1]


def correlations(done: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of each numeric setting with the best validation, the strongest first."""
    numeric = settings.loc[done.index].select_dtypes(["number", "bool"])
    rho = numeric.corrwith(done["best_validation"], method="spearman").dropna().sort_values(key=np.abs)[::-1]
    return pd.DataFrame({"": rho.index.str.removeprefix("method."), "rho": rho.map("{:+.2f}".format)})


def report(title: str, study: str, jobs: Sequence[Job], runs: pd.DataFrame) -> Report:
    """A search's report.

    Raises:
        UserError: the trials are of several data sets, methods or tasks, which have no common best.
    """
    if len({str((job.cfg.method.name, job.cfg.shots, job.cfg.variant, job.cfg.data)) for job in jobs}) > 1:
        raise UserError(f"{title}: trials are ranked within one method, data, shots and variant: choose one")
    settings, metric = settings_of(jobs), runs["metric"].iloc[0]
    numbers = as_numbers(settings)
    own = runs[runs["data"] == runs["trained_on"]].reset_index(drop=True)
    own["trial"] = [
        str(job.cfg.get("trial", place)) for place, job in enumerate(jobs)
    ]  # a grid has no trials
    done = own[own["scores"].notna()].sort_values("best_validation", ascending=metric == "mse")
    said = Report(title, [f"{len(done)} of {len(own)} trials have a result"])
    if done.empty:
        return said
    best = done.iloc[0]
    median = np.median(best["scores"])
    test = f"{best['mean']:.4g} ± {best['ci95']:.2g} (median of its tasks {median:.3g})"
    said.notes.append(f"best, by validation alone: trial {best['trial']}; test on {best['data']}: {test}")
    said.notes.append(jobs[done.index[0]].command)
    shown = {"trial": done["trial"], "best validation": done["best_validation"].map("{:.4g}".format)}
    for name, values in settings.loc[done.index].items():
        as_text = "{:.3g}".format if values.dtype == float else as_override
        shown[str(name).removeprefix("method.")] = values.map(as_text)
    shown["minutes"] = (done["train_seconds"] / 60).map("{:.1f}".format)
    said.tables = {"trials": pd.DataFrame(shown), "rank correlation": correlations(done, numbers)}
    if len(numbers.columns):
        said.figures[f"{study}-trials"] = trials(done["best_validation"], numbers, metric, title)
    return said
