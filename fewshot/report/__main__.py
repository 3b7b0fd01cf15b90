"""`python -m fewshot.report table1`: a study's table as the paper has it, from the runs that are there."""

import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from filelock import FileLock
from rich.console import Console

from fewshot.config.compose import choices_of
from fewshot.errors import UserError, exit_code
from fewshot.report import figures, search, table
from fewshot.report.jobs import Job, choice, jobs, narrowing, studies, title
from fewshot.report.pairs import HEADINGS, pairs, ranks, verdict
from fewshot.report.runs import runs_of
from fewshot.report.write import Report, show, write

HELP = """python -m fewshot.report STUDY [setting=value …]

A study's table from the runs that are there, beside the paper's: printed, and written under outputs/reports
as Markdown, LaTeX, CSV, HTML and figures. Settings narrow or change the study as they do for train.py:
method=oplstm, variant=paper, profile=quick. queries=15 reports the tests that evaluate.py made with so many
queries a class. W&B gets the report as a run of its own, unless logger=csv. Studies: """


def report(study: str, arguments: Sequence[str] = ()) -> tuple[Report, pd.DataFrame, list[Job]]:
    """A study's report, the tests that it is made from, and their jobs.

    Raises:
        UserError: there is no such study, or its metrics have no common table.
    """
    overrides, queries = split_queries(arguments)
    found = jobs(study, overrides)
    runs = runs_of(found, queries)
    name = title(study, arguments, bool(runs["reduced"].any()))
    if runs["metric"].nunique() > 1:
        raise UserError(f"{name}: errors on sine and accuracies do not fit one table: narrow data=")
    if study in choices_of("search"):
        said = search.report(name, study, found, runs)
    else:
        said = study_report(name, study, found, runs)
        said.notes += missing(runs, ["python", "train.py", "-m", choice(study), *overrides])
    for status, group in runs[~runs["status"].isin(["finished", "missing"])].groupby("status"):
        said.notes.append(f"{status}: {', '.join(group['folder'].unique())}")
    add_origin(said, runs)
    return said, runs, found


def split_queries(arguments: Sequence[str]) -> tuple[list[str], int | None]:
    """The overrides of runs, and the queries a class of the tests to report."""
    overrides = [argument for argument in arguments if not argument.startswith("queries=")]
    given = [argument.removeprefix("queries=") for argument in arguments if argument.startswith("queries=")]
    if given and not (given[-1].isdecimal() and int(given[-1])):
        raise UserError(f"queries={given[-1]}: give an integer from 1")
    return overrides, int(given[-1]) if given else None


def study_report(name: str, study: str, found: Sequence[Job], runs: pd.DataFrame) -> Report:
    said, cells, compared, logs = Report(name), table.summarise(runs), pairs(runs), figures.logs_of(runs)
    reduced = ", * reduced" * bool(runs["reduced"].any())
    said.tables[f"table: ours ± 95% over tasks [the paper's]{reduced}"] = table.as_published(cells)
    full = table.as_text(cells, table.IN_FULL)
    said.tables["in full: overlap allows for the paper's rounding"] = full
    said.numbers["in_full"] = cells
    if len(compared):
        said.tables["pairs: on equal tasks; p after Holm"] = table.as_text(compared, HEADINGS)
        said.numbers["pairs"] = compared
        said.notes.append(verdict(compared))
        mean_ranks = ranks(runs)
        if len(mean_ranks) > 1:
            columns = {"": mean_ranks.index, "rank": mean_ranks.map("{:.2f}".format)}
            said.tables["mean rank"] = pd.DataFrame(columns)
    if "one task has" in full:
        said.notes.append("Where one task has much of the error, the interval over tasks is too narrow.")
    if cells["seeds"].any():
        costs = table.as_text(cells[cells["seeds"] > 0], table.COSTS)
        said.tables["costs: means of the runs; the paper's on another machine"] = costs
    drawn = {
        "scores": figures.scores(cells, name),
        "shots": figures.by_shots(runs, cells, name),
        "validation": figures.learning(runs, logs, f"val/{found[0].metric}", name),
        "loss": figures.learning(runs, logs, "train/loss", name),
    }
    drawn["similarity"], values = figures.similarity(runs, logs, found[0].cfg, name)
    if len(values):
        said.tables["figure 6: means over runs, validation tasks"] = values
    said.figures = {f"{study}-{kind}": figure for kind, figure in drawn.items() if figure is not None}
    return said


def missing(runs: pd.DataFrame, train: Sequence[str]) -> list[str]:
    """The commands for tests that finished runs lack, and for runs where none has a score."""
    untested = runs[runs["status"] == "untested"]
    if untested.empty:
        return [f"no run has a score: {shlex.join(train)} starts them"] * bool(runs["scores"].isna().all())
    commands = []
    for data, queries in sorted(set(zip(untested["data"], untested["test_queries"], strict=True))):
        where = data if data in choices_of("data") else "folder path=…"
        command = f"python evaluate.py run=FOLDER data={where} queries={queries}"
        commands.append(f"{command} makes a missing test")
    return commands


def add_origin(said: Report, runs: pd.DataFrame) -> None:
    """Adds the environments of runs and tests, and the warnings of the runs."""
    done = runs[runs["scores"].notna()]
    if len(done):
        said.notes.append(f"Made on {made_on(done)}.")
    if len(further := done["tested_by"].dropna()):
        where = made_on(pd.DataFrame(list(further)))
        said.notes.append(f"Further tests than the runs' own were made on {where}.")
    warnings = runs.drop_duplicates("folder").explode("warnings")["warnings"].dropna()
    if len(warnings):
        kinds = warnings.groupby(warnings.str.partition(":")[0], sort=False).agg(["first", "size"])
        said.tables["warnings, with one run's numbers"] = kinds.set_axis(["warning", "runs"], axis=1)


def made_on(tests: pd.DataFrame) -> str:
    """Hardware, threads and commits of several runs or tests."""
    torch = tests["versions"].map(lambda versions: (versions or {}).get("torch"))
    commits = tests["git_commit"].str.replace(r"^(\w{10})\w*", r"\1", regex=True)
    columns = (tests["device"], tests["threads"].astype("Int64").astype(object), torch, commits)
    parts = [", ".join(sorted(set(values.fillna("unknown").astype(str)))) for values in columns]
    return "{}; {} thread(s), torch {}, commit {}".format(*parts)


def main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP + ", ".join(studies()))
        return 0 if arguments else 2
    study, *overrides = arguments
    said, runs, found = report(study, overrides)
    show(said, Console(width=None if sys.stdout.isatty() else 160))
    cfg, name = found[0].cfg, "-".join([study, *narrowing(overrides)]).replace("/", "_")
    if len(name) > 100:
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"
    folder = Path(cfg.paths.outputs) / "reports" / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        write(said, folder, runs)
    if cfg.logger.name == "wandb":
        from fewshot.report.to_wandb import log

        try:
            log(said, cfg, folder)
        except Exception as error:
            print(f"W&B did not take the report: {type(error).__name__}: {error}", file=sys.stderr)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
