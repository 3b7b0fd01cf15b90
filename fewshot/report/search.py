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
    """The settings of method and backbone in which the jobs differ, one row per job."""
    plain = pd.json_normalize([OmegaConf.to_container(job.cfg, resolve=True) for job in jobs])
    own = plain.filter(regex=r"^(method|backbone)\..*(?<!\.name)$")
    own = own.loc[:, own.astype(str).nunique() > 1]
    return own.rename(columns=lambda name: name.removeprefix("method."))


def add_trials(said: Report, jobs: Sequence[Job], runs: pd.DataFrame) -> None:
    """Adds a search's tables, figure and best trial to its report.

    Raises:
        UserError: the trials are of several data sets, methods or tasks, which have no common best.
    """
    if len({str((job.cfg.method.name, job.cfg.shots, job.cfg.variant, job.cfg.data)) for job in jobs}) > 1:
        raise UserError("trials are ranked within one method, data, shots and variant: choose one")
    settings, metric = settings_of(jobs), runs["metric"].iloc[0]
    own = runs[runs["data"] == runs["trained_on"]].reset_index(drop=True)
    own["trial"] = [
        str(job.cfg.get("trial", place)) for place, job in enumerate(jobs)
    ]  # a grid has no trials
    done = own[own["scores"].notna()].sort_values("best_validation", ascending=metric == "mse")
    said.notes.append(f"{len(done)} of {len(own)} trials have a result")
    if done.empty:
        return
    best, settings = done.iloc[0], settings.loc[done.index]
    test = f"{best['mean']:.4g} ± {best['ci95']:.2g} (median of its tasks {np.median(best['scores']):.3g})"
    said.notes.append(f"best, by validation alone: trial {best['trial']}; test on {best['data']}: {test}")
    said.notes.append(jobs[done.index[0]].command)
    shown = {"trial": done["trial"], "best validation": done["best_validation"].map("{:.4g}".format)}
    for name, values in settings.items():
        shown[str(name)] = values.map("{:.3g}".format if values.dtype == float else as_override)
    shown["minutes"] = (done["train_seconds"] / 60).map("{:.1f}".format)
    said.tables["trials"] = pd.DataFrame(shown)
    if len(settings.columns):
        said.figures["trials"] = trials(done["best_validation"], settings, metric, said.title)
