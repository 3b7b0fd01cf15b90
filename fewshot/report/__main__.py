"""A study's table from the runs that are there, beside the paper's: `python -m fewshot.report table1`.

It is printed, and written under outputs/reports as Markdown, LaTeX, CSV, HTML and figures. Settings narrow or
change the study as they do for train.py: method=oplstm, variant=paper, profile=quick. queries=15 reports the
tests that evaluate.py made with so many queries a class. W&B gets the report as a run of its own, unless
logger=csv.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from fewshot.config.compose import choices_of, plain
from fewshot.errors import UserError, optional
from fewshot.files import atomic_write
from fewshot.plots import curves
from fewshot.plots.episodes import save_figure
from fewshot.report import table
from fewshot.report.jobs import Job, jobs, name_of_report, run_program, runs_of, title
from fewshot.results.record import as_override

LEGEND = """Scores are ours ± 95% over tasks, ± 95% over seeds [the paper's]; * is reduced, - out of time,
· missing. Where one task has much of the error, ± tasks is too narrow. Costs are means of the runs."""
OF_PAIRS = """Pairs are on equal tasks, the first less the second; a tie is half a task won. p-values of
each kind have Holm's correction on their own: {tasks} pairs over tasks, {seeds} over seeds. Significance
(5%, t-tests) over tasks is that of these trained runs, over seeds that of the methods."""
PRETRAINED = "The frozen features are of a network whose training may have seen the classes of the test."
HEAD = """<!doctype html><meta charset=utf-8><style>body{font:15px sans-serif;margin:2em}
th,td{padding:.3em .7em;text-align:right;border-bottom:1px solid #ddd}img{max-width:100%}</style>"""


@dataclass
class Report:
    """What a report says, in whatever format, by the names of tables and figures."""

    title: str
    jobs: list[Job]
    runs: pd.DataFrame  # the tests of the jobs
    notes: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # of text
    figures: dict[str, Figure] = field(default_factory=dict)
    numbers: dict[str, pd.DataFrame] = field(default_factory=dict)  # csv files


def make_report(study: str, overrides: Sequence[str] = ()) -> Report:
    """A study's report.

    Raises:
        UserError: there is no such study, or its metrics have no common table.
    """
    found = jobs(study, overrides)
    runs = runs_of(found)
    report = Report(title(study, overrides), found, runs, numbers={"runs": runs.drop(columns="scores")})
    if runs["metric"].nunique() > 1:
        raise UserError(f"{report.title}: errors and accuracies do not fit one table: narrow data=")
    if any(job.cfg.backbone.get("frozen") for job in found):
        report.notes.append(PRETRAINED)
    (add_trials if study in choices_of("search") else add_tables)(report)
    report.figures = {f"{study}-{kind}": figure for kind, figure in report.figures.items()}
    return report


def add_tables(report: Report) -> None:
    cells, compared = table.summarise(report.runs), table.pairs(report.runs)
    report.notes.append(LEGEND)
    report.numbers["in_full"] = cells
    report.tables = {"table": table.as_published(cells), "in full": table.as_text(cells, table.IN_FULL)}
    if len(compared):
        counts = compared[["p_tasks", "p_seeds"]].count()
        report.notes.append(OF_PAIRS.format(tasks=counts["p_tasks"], seeds=counts["p_seeds"]))
        report.numbers["pairs"], ranks = compared, table.ranks(report.runs)
        report.tables["pairs"] = table.as_text(compared, table.PAIRS)
        if len(ranks):
            report.tables["mean rank"] = ranks
    if cells["seeds"].any():
        report.tables["costs"] = table.as_text(cells[cells["seeds"] > 0], table.COSTS)
        report.figures = curves.of_study(report.title, report.jobs[0].cfg, report.runs, cells)


def add_trials(report: Report) -> None:
    """Adds a search's table, figure and best trial to its report.

    Raises:
        UserError: the trials are of several data sets, methods or tasks, which have no common best.
    """
    cfgs, runs = [job.cfg for job in report.jobs], report.runs
    if len({str((cfg.method.name, cfg.shots, cfg.variant, cfg.data)) for cfg in cfgs}) > 1:
        raise UserError("trials are ranked within one method, data, shots and variant: choose one")
    own, metric = runs[runs["data"] == runs["trained_on"]].reset_index(drop=True), runs["metric"].iloc[0]
    own["trial"] = [str(cfg.get("trial", n)) for n, cfg in enumerate(cfgs)]  # a grid has no trials
    done = own[own["scores"].notna()].sort_values("best_validation", ascending=metric == "mse")
    report.notes.append(f"{len(done)} of {len(own)} trials have a result")
    if done.empty:
        return
    settings = pd.json_normalize(list(map(plain, cfgs))).filter(regex=r"^(method|backbone)\..*(?<!\.name)$")
    settings = settings.loc[done.index, settings.astype(str).nunique() > 1]  # those that the search varies
    settings, best = settings.rename(columns=lambda name: name.removeprefix("method.")), done.iloc[0]
    test = f"{best['mean']:.4g} ± {best['ci95']:.2g} (median of its tasks {np.median(best['scores']):.3g})"
    report.notes.append(f"best, by validation alone: trial {best['trial']}; test on {best['data']}: {test}")
    report.notes.append(report.jobs[done.index[0]].command)
    shown = {"trial": done["trial"], "best validation": done["best_validation"].map("{:.4g}".format)}
    for name, values in settings.items():
        shown[str(name)] = values.map("{:.3g}".format if values.dtype == float else as_override)
    shown["minutes"] = (done["train_seconds"] / 60).map("{:.1f}".format)
    report.tables["trials"] = pd.DataFrame(shown)
    if len(settings.columns):
        report.figures["trials"] = curves.trials(done["best_validation"], settings, metric, report.title)


def markdown(report: Report) -> str:
    as_text: dict[str, Any] = {"index": False, "stralign": "right", "disable_numparse": True}
    tables = [f"**{name}**\n\n{frame.to_markdown(**as_text)}" for name, frame in report.tables.items()]
    figures = [f"![{name}]({name}.png)" for name in report.figures]
    return "\n\n".join([f"# {report.title}", *report.notes, *tables, *figures]) + "\n"


def write(report: Report, folder: Path) -> None:
    """Writes report.md, .tex (for booktabs and T1 fonts) and .html, csv files and figures."""
    files = {f"{name}.csv": frame.to_csv(index=False) for name, frame in report.numbers.items()}
    page = [f"{HEAD}<h1>{escape(report.title)}</h1>", *(f"<p>{escape(note)}</p>" for note in report.notes)]
    page += [f'<img src="{name}.png">' for name in report.figures]
    page += [f"<h2>{name}</h2>{text.to_html(index=False, border=0)}" for name, text in report.tables.items()]
    tex = [text.to_latex(index=False, escape=True, caption=name) for name, text in report.tables.items()]
    files |= {"report.md": markdown(report), "report.tex": "".join(tex), "report.html": "".join(page)}
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / "pairs.csv", *folder.glob(f"{report.title.split()[0]}-*")):
        old.unlink(missing_ok=True)  # of an earlier report, with runs that may be gone
    for name, figure in report.figures.items():
        save_figure(figure, folder / name)
    for name, content in files.items():
        atomic_write(folder / name, content)


@optional("logging to W&B")
def log_to_wandb(report: Report, cfg: DictConfig, folder: Path) -> None:
    """Logs tables and figures as a W&B run, the same each time, offline unless the user is logged in."""
    import wandb

    from fewshot.training.wandb_log import wandb_settings

    settings = wandb_settings(folder) | {"job_type": "report", "name": folder.name}
    settings |= {key: plain(cfg.logger)[key] for key in ("entity", "project", "group", "tags")}
    shown: dict[str, Any] = {name: wandb.Image(figure) for name, figure in report.figures.items()}
    shown |= {name: wandb.Table(dataframe=frame) for name, frame in report.tables.items()}
    with wandb.init(**settings) as run:
        run.log(shown)
        run.summary["notes"] = "\n".join(report.notes)


def main(study: str, overrides: Sequence[str]) -> None:
    report = make_report(study, overrides)
    print(markdown(report))
    cfg = report.jobs[0].cfg
    folder = Path(cfg.paths.outputs) / "reports" / name_of_report(report.title)
    write(report, folder)
    if cfg.logger.name == "wandb":
        log_to_wandb(report, cfg, folder)
    print(folder)


if __name__ == "__main__":
    run_program(main, __doc__)
