"""A report's tables as rich text, Markdown, LaTeX, CSV, and one HTML page that needs nothing beside it."""

import base64
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot.files import atomic_write
from fewshot.plots.episodes import as_image, save_figure
from fewshot.report.paired import Pair
from fewshot.report.summary import NOT_RUN, ROUNDED, Summary

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:84em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:14px}
th,td{padding:.3em .7em;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #222}img{max-width:100%}
div.wide{overflow-x:auto}"""

HEAD = "<meta charset=utf-8><meta name=viewport content=width=device-width>"


@dataclass
class Report:
    """What a study's report says, in whatever form."""

    title: str
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # by their captions
    numbers: dict[str, pd.DataFrame] = field(
        default_factory=dict
    )  # as they are, by the names of their csv files
    words: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)  # by their file names


def number(value: float | None, metric: str, sign: str = "") -> str:
    """In % with two digits, or an error with three significant ones; "" for none."""
    if value is None or np.isnan(value):
        return ""
    return f"{value:{sign}.2f}" if metric == "accuracy" else f"{value:{sign}.3g}"


def with_width(mean: float, width: float, metric: str) -> tuple[str, str]:
    """A mean and the half-width of its interval to the same place: 0.0153 and 0.0007."""
    places = 2 if metric == "accuracy" else max(2 - int(np.floor(np.log10(abs(mean) or 1))), 0)
    least = 10.0**-places
    of_mean = (
        "unknown"
        if np.isnan(width)
        else f"{width:.{places}f}"
        if width >= least / 2
        else f"<{least:.{places}f}"
    )
    return f"{mean:.{places}f}", of_mean


def of_paper(width: float | None, metric: str) -> str:
    """The half-width that the paper prints; its .000 on sine is anything below .0005."""
    return f"<{ROUNDED[metric]}" if width == 0 else number(width, metric)


def shown(summary: Summary) -> str:
    """`0.0475 ± 0.0030 [0.0406 ± 0.002]`: ours and its interval over tasks, and the paper's."""
    metric = summary.metric
    if summary.seeds:
        ours = " ± ".join(with_width(summary.mean, summary.of_tasks, metric)) + "*" * summary.reduced
        if len(summary.seeds) < summary.asked:
            ours += f" ({len(summary.seeds)}/{summary.asked})"
    else:
        ours = ", ".join(NOT_RUN.get(status, status) for status in summary.status)
    if summary.paper is None:
        return ours
    beside = f" ± {width}" if (width := of_paper(summary.paper_ci95, metric)) else ""
    return f"{ours} [{number(summary.paper, metric)}{beside}]"


def beside(ours: float | None, paper: float | None, form: str) -> str:
    """`17,923 [18,107]`: ours, and the paper's."""
    return ("" if ours is None else f"{ours:{form}}") + ("" if paper is None else f" [{paper:{form}}]")


def as_the_paper(table: Mapping[str, Mapping[str, Summary]]) -> pd.DataFrame:
    """Rows and columns as the paper has them."""
    columns = list(dict.fromkeys(where for row in table.values() for where in row))
    rows = []
    for name, row in table.items():
        parameters = next(
            (told for s in row.values() if (told := beside(s.parameters, s.paper_parameters, ","))), ""
        )
        cells = {where: shown(row[where]) if where in row else "" for where in columns}
        rows.append({"": name, "parameters": parameters} | cells)
    return pd.DataFrame(rows)


def in_full(table: Mapping[str, Mapping[str, Summary]]) -> pd.DataFrame:
    """A line a cell of it: both intervals, the median task, the difference from the paper."""
    lines = []
    for name, where, cell in each(table):
        metric, done = cell.metric, bool(cell.seeds)
        mean, of_tasks = with_width(cell.mean, cell.of_tasks, metric) if done else ("", "")
        lines.append(
            {
                "": name,
                "on": where,
                "runs": f"{len(cell.seeds)}/{cell.asked}",
                "mean": mean + "*" * (done and cell.reduced),
                "± tasks": of_tasks,
                "± seeds": "" if cell.of_seeds is None else with_width(cell.mean, cell.of_seeds, metric)[1],
                "median": number(cell.median, metric),
                "paper": number(cell.paper, metric),
                "± its tasks": of_paper(cell.paper_ci95, metric),
                "± its seeds": number(cell.paper_seeds, metric),
                "ours - paper": number(cell.difference, metric, "+"),
                "intervals meet": {True: "yes", False: "no", None: ""}[cell.meets],
                "no score": ", ".join(cell.status),
            }
        )
    frame = pd.DataFrame(lines)
    return frame.loc[:, frame.ne("").any()]


def costs(table: Mapping[str, Mapping[str, Summary]]) -> pd.DataFrame:
    """A line a cell of it that was run: parameters, time and memory."""
    lines = [
        {
            "": name,
            "on": where,
            "parameters": beside(cell.parameters, cell.paper_parameters, ","),
            "training tasks": "" if cell.train_tasks is None else f"{cell.train_tasks:,.0f}",
            "minutes a run": beside(cell.minutes, cell.paper_minutes, ".1f"),
            "training tasks/s": "" if cell.tasks_per_second is None else f"{cell.tasks_per_second:,.0f}",
            "peak MB": "" if cell.peak_memory_bytes is None else f"{cell.peak_memory_bytes / 1e6:,.0f}",
        }
        for name, where, cell in each(table)
        if cell.seeds
    ]
    return pd.DataFrame(lines)


def each(table: Mapping[str, Mapping[str, Summary]]) -> Iterator[tuple[str, str, Summary]]:
    return ((name, where, cell) for name, row in table.items() for where, cell in row.items())


def of_pairs(pairs: Sequence[Pair], metric: str) -> pd.DataFrame:
    lines = [
        {
            "": f"{pair.first} - {pair.second}",
            "on": pair.where,
            "seeds": str(pair.seeds),
            "difference": number(pair.difference, metric, "+"),
            "± tasks": number(pair.of_tasks, metric),
            "± seeds": number(pair.of_seeds, metric),
            "p tasks": f"{pair.p_tasks:.2g}" if pair.p_tasks else "<1e-300",
            "p seeds": "" if pair.p_seeds is None else f"{pair.p_seeds:.2g}",
            "effect d": f"{pair.effect:.2f}",
        }
        for pair in pairs
    ]
    return pd.DataFrame(lines)


def show(report: Report, console: Console) -> None:
    console.print(Text(report.title, "bold"))
    for caption, frame in report.tables.items():
        table = Table(title=Text(caption), box=box.SIMPLE_HEAD, title_justify="left")
        for place, name in enumerate(frame.columns):
            table.add_column(
                name, justify="right" if place else "left", overflow="fold", no_wrap=name in ("", "on")
            )
        for row in frame.itertuples(index=False):
            table.add_row(*(Text(str(cell)) for cell in row))
        console.print(table)
    for words in report.words:
        console.print(Text(words), soft_wrap=True)


def markdown(report: Report) -> str:
    parts = [f"# {report.title}", *report.words]
    for caption, frame in report.tables.items():
        lines = [
            list(frame.columns),
            ["---", *["---:"] * (len(frame.columns) - 1)],
            *frame.astype(str).values.tolist(),
        ]
        rows = "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
        parts.append(f"**{caption}**\n\n{rows}")
    parts += [f"![{name}]({name}.png)" for name in report.figures]
    return "\n\n".join(parts) + "\n"


def short(caption: str) -> str:
    """A table's name in files and references."""
    return re.split("[,:;]", caption)[0].replace(" ", "_")


def latex(report: Report) -> str:
    """Tables for booktabs, no wider than a line of the text."""
    signs = {"±": r"$\pm$", "→": r"$\to$", "·": r"$\cdot$", "−": "-", "<": "$<$", ">": "$>$"}
    signs |= {r"\begin{tabular}": "\\begin{adjustbox}{max width=\\linewidth}\n\\begin{tabular}"}
    signs |= {r"\end{tabular}": "\\end{tabular}\n\\end{adjustbox}"}
    parts = [
        f"% {report.title}",
        *(f"% {words}" for words in report.words),
        r"% \usepackage{booktabs,adjustbox}",
    ]
    for caption, frame in report.tables.items():
        told = re.sub(r"([%&_#$])", r"\\\1", caption)  # pandas escapes cells, and not this
        form = "l" + "r" * (frame.shape[1] - 1)
        label = f"tab:{report.title.split()[0].rstrip(',')}-{short(caption).replace('_', '-')}"
        text = frame.to_latex(index=False, escape=True, caption=told, label=label, column_format=form)
        for sign, command in signs.items():
            text = text.replace(sign, command)
        parts.append(text)
    return "\n".join(parts)


def page(report: Report) -> str:
    """One HTML page with the figures in it, after the first table."""
    parts = [
        f"<h1>{html.escape(report.title)}</h1>",
        *(f"<p>{html.escape(words)}</p>" for words in report.words),
    ]
    tables = []
    for caption, frame in report.tables.items():
        table = frame.to_html(index=False, border=0).replace(
            " ± ", "&nbsp;±&nbsp;"
        )  # a cell breaks before the paper's
        tables.append(f"<h2>{html.escape(caption)}</h2><div class=wide>{table}</div>")
    parts += tables[:1]
    for name, figure in report.figures.items():
        kept = BytesIO()
        as_image(figure, dpi=150).save(kept, "PNG")
        picture = base64.b64encode(kept.getvalue()).decode()
        name = html.escape(name)
        parts.append(f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{picture}">')
    parts += tables[1:]
    head = f"{HEAD}<title>{html.escape(report.title)}</title><style>{STYLE}</style>"
    return f"<!doctype html>\n<html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def write(report: Report, folder: Path, runs: pd.DataFrame) -> None:
    """Everything, under `folder`: report.md, .tex, .html, a csv a table, one of the runs, and the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "report.md", markdown(report))
    atomic_write(folder / "report.tex", latex(report))
    atomic_write(folder / "report.html", page(report))
    as_shown = {short(caption): frame for caption, frame in report.tables.items()}
    every = as_shown | report.numbers | {"runs": runs.drop(columns=["scores"])}
    frames = {name: frame for name, frame in every.items() if len(frame)}
    for name, frame in frames.items():
        atomic_write(folder / f"{name}.csv", frame.to_csv(index=False))
    for name, figure in report.figures.items():
        save_figure(figure, folder / name)
    for path in folder.iterdir():
        if (
            path.suffix in (".csv", ".png", ".pdf") and path.stem not in frames | report.figures
        ):  # of an earlier report
            path.unlink()
