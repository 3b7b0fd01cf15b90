"""A study's table from the runs that are there, beside the paper's: `python -m fewshot.report table1`.

It is printed, and written under outputs/reports as Markdown, LaTeX, CSV, HTML and figures. Settings narrow or
change the study as they do for train.py: method=oplstm, variant=paper, profile=quick. queries=15 reports the
tests that evaluate.py made with so many queries a class. W&B gets the report as a run of its own, unless
logger=csv.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fewshot.config.compose import choices_of, plain
from fewshot.errors import UserError, optional
from fewshot.report import figures, table
from fewshot.report.jobs import Job, command, jobs, runs_of, title
from fewshot.report.write import Report, log_to_wandb, markdown, write
from fewshot.results.record import as_override

LEGEND = """Scores are ours ± 95% over tasks [the paper's]; * is reduced, - out of time, · missing.
Where one task has much of the error, ± tasks is too narrow.
Pairs are on equal tasks, the first less the second; p-values have Holm's correction. Significance (5%) over
tasks is that of these trained runs, over seeds that of the methods. Costs are means of the runs."""


def report(study: str, arguments: Sequence[str] = ()) -> tuple[Report, pd.DataFrame, list[Job]]:
    """A study's report, the tests that it is made from, and their jobs.

    Raises:
        UserError: there is no such study, or its metrics have no common table.
    """
    overrides, queries = split_queries(arguments)
    found, said = jobs(study, overrides), Report(title(study, arguments))
    runs = runs_of(found, queries)
    if runs["metric"].nunique() > 1:
        raise UserError(f"{said.title}: errors on sine and accuracies do not fit one table: narrow data=")
    add = add_trials if study in choices_of("search") else add_tables
    add(said, found, runs)
    said.figures = {f"{study}-{kind}": figure for kind, figure in said.figures.items()}
    said.numbers["runs"] = runs.drop(columns="scores")
    return said, runs, found


def split_queries(arguments: Sequence[str]) -> tuple[list[str], int | None]:
    """The overrides of runs, and the queries a class of the tests to report."""
    given = [argument for argument in arguments if argument.startswith("queries=")]
    if given and not given[-1].removeprefix("queries=").isdecimal():
        raise UserError(f"{given[-1]} is not an integer")
    queries = int(given[-1].removeprefix("queries=")) if given else None
    return [argument for argument in arguments if argument not in given], queries


def add_tables(said: Report, found: Sequence[Job], runs: pd.DataFrame) -> None:
    cells, compared = table.summarise(runs), table.pairs(runs)
    said.notes.append(LEGEND)
    said.numbers["in_full"] = cells
    said.tables = {"table": table.as_published(cells), "in full": table.as_text(cells, table.IN_FULL)}
    if len(compared):
        said.numbers["pairs"] = compared
        said.tables |= {"pairs": table.as_text(compared, table.PAIRS), "mean rank": table.ranks(runs)}
    if cells["seeds"].any():
        said.tables["costs"] = table.as_text(cells[cells["seeds"] > 0], table.COSTS)
        said.figures = figures.of_study(said.title, found[0].cfg, runs, cells)


def add_trials(said: Report, found: Sequence[Job], runs: pd.DataFrame) -> None:
    """Adds a search's tables, figure and best trial to its report.

    Raises:
        UserError: the trials are of several data sets, methods or tasks, which have no common best.
    """
    if len({str((job.cfg.method.name, job.cfg.shots, job.cfg.variant, job.cfg.data)) for job in found}) > 1:
        raise UserError("trials are ranked within one method, data, shots and variant: choose one")
    settings, metric = settings_of(found), runs["metric"].iloc[0]
    own = runs[runs["data"] == runs["trained_on"]].reset_index(drop=True)
    own["trial"] = [str(job.cfg.get("trial", n)) for n, job in enumerate(found)]  # a grid has no trials
    done = own[own["scores"].notna()].sort_values("best_validation", ascending=metric == "mse")
    said.notes.append(f"{len(done)} of {len(own)} trials have a result")
    if done.empty:
        return
    best, settings = done.iloc[0], settings.loc[done.index]
    test = f"{best['mean']:.4g} ± {best['ci95']:.2g} (median of its tasks {np.median(best['scores']):.3g})"
    said.notes.append(f"best, by validation alone: trial {best['trial']}; test on {best['data']}: {test}")
    said.notes.append(found[done.index[0]].command)
    shown = {"trial": done["trial"], "best validation": done["best_validation"].map("{:.4g}".format)}
    for name, values in settings.items():
        shown[str(name)] = values.map("{:.3g}".format if values.dtype == float else as_override)
    shown["minutes"] = (done["train_seconds"] / 60).map("{:.1f}".format)
    said.tables["trials"] = pd.DataFrame(shown)
    if len(settings.columns):
        said.figures["trials"] = figures.trials(done["best_validation"], settings, metric, said.title)


def settings_of(found: Sequence[Job]) -> pd.DataFrame:
    """The settings of method and backbone in which the jobs differ, one row per job."""
    settings = pd.json_normalize([plain(job.cfg) for job in found])
    own = settings.filter(regex=r"^(method|backbone)\..*(?<!\.name)$")
    own = own.loc[:, own.astype(str).nunique() > 1]
    return own.rename(columns=lambda name: name.removeprefix("method."))


def main(study: str, arguments: Sequence[str]) -> None:
    said, _, [job, *_] = report(study, arguments)
    print(markdown(said))
    folder = Path(job.cfg.paths.outputs) / "reports" / said.title.replace(" ", "-").replace("/", "_")[:150]
    write(said, folder)
    if job.cfg.logger.name == "wandb":
        with optional("logging to W&B"):
            log_to_wandb(said, job.cfg, folder)
    print(folder)


if __name__ == "__main__":
    command(main, __doc__)
