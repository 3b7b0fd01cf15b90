"""`python -m fewshot.report table1`: a study's table as the paper has it, from the runs that are there."""

from fewshot import signals

if __name__ == "__main__":
    signals.listen()  # before anything slow, so that a signal ends in one line from the start

import hashlib
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fewshot.config.settings import choices_of
from fewshot.errors import UserError
from fewshot.mistakes import any_letters, say
from fewshot.options import Few, check_values
from fewshot.report import figures, paired, search, write
from fewshot.report.runs import Cell, cells, choice, studies, title, what_differs
from fewshot.report.summary import carries, summarise
from fewshot.report.tested import of_study

UNTESTED = ("untested", "unreadable scores")  # runs that evaluate.py can test
HELP = """python -m fewshot.report STUDY [setting=value …]

A study's table from the runs that are there, beside the paper's: printed, and written under outputs/reports as
Markdown, LaTeX, CSV, HTML and figures. Settings narrow or change the study as they do for train.py: method=oplstm,
variant=paper, profile=quick. queries=15 reports the tests that evaluate.py made with as many queries a class. W&B gets it
as a run of its own, unless logger=csv. Studies: """


def report(study: str, told: Sequence[str] = ()) -> tuple[write.Report, pd.DataFrame, list[Cell]]:
    """What is to be said of a study, the data frame it is from, and the cells.

    Raises:
        UserError: there is no such study, or it cannot be told in one table.
    """
    settings, queries = queries_of(told)
    found = cells(study, settings)
    runs = of_study(found, queries)
    reduced = bool(runs["reduced"].any())
    name = title(study, told, reduced)
    if runs["metric"].nunique() > 1:
        raise UserError(f"{name}: errors on sine waves and accuracies are no one table: narrow data=")
    if study in choices_of("search"):
        said = search.report(name, study, found, runs)
        return with_origin(said, runs), runs, found
    table, pairs = summarise(runs), paired.pairs(runs)
    said = write.Report(name)
    caption = "table: ours ± 95% over tasks [the paper's]" + ", * reduced" * reduced
    said.tables[caption] = write.as_the_paper(table)
    full = write.in_full(table)
    rounding = "; whether they meet allows for the paper's rounding" * ("intervals meet" in full)
    said.tables["in full: intervals over tasks and over seeds" + rounding] = full
    summaries = [{"row": row, "on": where} | vars(cell) for row, where, cell in write.each(table)]
    said.numbers = {"in_full": pd.DataFrame(summaries), "pairs": pd.DataFrame(map(vars, pairs))}
    said.words += [
        f"{row} on {where}: one task of {cell.tasks:,} carries {cell.worst:.0%} of the mean, whose interval is then "
        f"too narrow; the median is {cell.median:.3g}"
        for row, where, cell in write.each(table)
        if cell.metric == "mse" and carries(cell.worst, cell.tasks)
    ]
    if pairs:
        metric = runs["metric"].dropna().iloc[0]
        said.tables["pairs: on equal tasks; p after Holm"] = write.of_pairs(pairs, metric)
        ranks = paired.ranks(runs)
        if len(ranks) > 1:
            said.tables["mean rank"] = pd.DataFrame({"": ranks.index, "rank": ranks.map("{:.2f}".format)})
        said.words.append(paired.verdict(pairs))
        said.words += [
            f"{pair.first} - {pair.second} on {pair.where}: one task carries {pair.worst:.0%} of the differences, "
            "whose interval and p over tasks are then not to be trusted"
            for pair in pairs
            if metric == "mse" and carries(pair.worst, pair.tasks)
        ]
    said.words += to_be_tested(runs, queries)
    if runs["scores"].isna().all() and not runs["status"].isin(UNTESTED).all():
        command = shlex.join(["python", "train.py", "-m", choice(study), *settings])
        said.words.append(f"none of these cells has a score: {command} runs them, as they are told here")
    if runs["scores"].notna().any():
        said.tables["costs: means of the runs [the paper's, on another machine]"] = write.costs(table)
    logs = figures.logs_of(runs)
    drawn = {
        "scores": figures.scores(runs, table, name),
        "shots": figures.by_shots(runs, table, name),
        "validation": figures.learning(runs, logs, "validation", name, each=study == "figureB1"),
        "loss": figures.learning(runs, logs, "training loss", name),
    }
    if drawn_6 := figures.similarity(runs, logs, found[0].cfg, name):
        drawn["similarity"], beside = drawn_6
        if len(beside):
            said.tables["figure 6: means over runs, validation tasks"] = beside
    said.figures = {f"{study}-{kind}": figure for kind, figure in drawn.items() if figure is not None}
    return with_origin(said, runs), runs, found


def queries_of(told: Sequence[str]) -> tuple[list[str], int | None]:
    """The settings of runs, and the queries a class that a report is asked for."""
    settings = [setting for setting in told if not setting.startswith("queries=")]
    if len(settings) == len(told):
        return settings, None
    [*_, asked] = [setting.removeprefix("queries=") for setting in told if setting.startswith("queries=")]
    queries = int(asked) if asked.isdecimal() else asked
    check_values({"queries": Few}, {"queries": queries})
    return settings, int(queries)


def to_be_tested(runs: pd.DataFrame, queries: int | None) -> list[str]:
    """The command for each kind of test that finished runs lack."""
    lacking, known = runs[runs["status"].isin(UNTESTED)], choices_of("data")
    more = f" queries={queries}" * (queries is not None)
    own = lacking["data"] == lacking["trained_on"]
    kinds = {
        f" data={data}" if data in known else " data=folder path=…" for data in lacking.loc[~own, "data"]
    }
    kinds |= {""} if own.any() else set()
    return [
        f"python evaluate.py run=FOLDER{kind}{more} makes a test that is missing" for kind in sorted(kinds)
    ]


def with_origin(said: write.Report, runs: pd.DataFrame) -> write.Report:
    """The report with the folders that hold no score, where runs and tests were made, and what the runs warn of."""
    for status, cell in runs[~runs["status"].isin(["finished", "missing"])].groupby("status"):
        said.words.append(f"{status}: {', '.join(cell['folder'].unique())}")
    done = runs[runs["scores"].notna()]
    if len(done):
        said.words.append(f"Made on {made_on(done.to_dict('records'))}.")
    if len(further := done["tested_by"].dropna()):
        said.words.append(f"Further tests than the runs' own were made on {made_on(further)}.")
    if len(warned := warnings(runs)):
        said.tables["what the runs warn of"] = warned
    return said


def warnings(runs: pd.DataFrame) -> pd.DataFrame:
    """A line a kind of warning (`fewshot/results/diagnostics.py`), as one of the runs puts it."""
    if "warnings" not in runs:  # as where none has run
        return pd.DataFrame()
    told = runs[["folder", "warnings"]].drop_duplicates("folder").explode("warnings").dropna()
    kinds = told.groupby(told["warnings"].str.replace(r"\d[\d.]*(e[+-]?\d+)?", "#", regex=True), sort=False)
    lines = [
        {"warning, as one run puts it": kind.iloc[0], "runs": len(kind)} for _, kind in kinds["warnings"]
    ]
    return pd.DataFrame(lines)


def made_on(by: Iterable[Mapping[str, Any]]) -> str:
    """Hardware, threads and commits of several runs or tests."""
    told = [
        (of["device"], whole(of["threads"]), of["versions"].get("torch", "unknown"), short(of["git_commit"]))
        for of in by
    ]
    devices, threads, torch, commits = (", ".join(sorted(set(each))) for each in zip(*told, strict=True))
    return f"{devices}; {threads} thread(s), torch {torch}, commit {commits}"


def whole(number: Any) -> str:
    return "unknown" if pd.isna(number) else f"{number:.0f}"


def short(commit: Any) -> str:
    return commit[:10] + "+" * commit.endswith("+") if isinstance(commit, str) else "unknown"


def main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP + ", ".join(studies()))
        return 0 if arguments else 2
    any_letters()
    study, *told = arguments
    try:
        if "=" in study:
            raise UserError(f"{study}: name a study first: {', '.join(studies())}")
        said, runs, found = report(study, told)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return say(error)
    name = "-".join([study, *what_differs(told)])
    if len(name) > 100:
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"
    folder = Path(found[0].cfg.paths.outputs) / "reports" / name.replace("/", "_")
    unwritten = None
    try:
        with FileLock(folder / ".lock"):  # of another report of the same
            write.write(said, folder, runs)
    except OSError as error:
        unwritten = UserError(f"the report cannot be written: {error}")
    if found[0].cfg.logger.name == "wandb" and not unwritten:
        from fewshot.report.to_wandb import log

        try:
            log(said, found[0].cfg, folder)
        except Exception as error:  # what is written does not fall with W&B
            print(f"W&B did not take the report: {type(error).__name__}: {error}", file=sys.stderr)
    write.show(
        said, Console(width=None if sys.stdout.isatty() else 160)
    )  # last: a pipe may be read no further
    if unwritten:
        return say(unwritten)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
