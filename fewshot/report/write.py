"""A report as text, Markdown, LaTeX, CSV, and one HTML page that needs no other file."""

import base64
import html
import re
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot.files import atomic_write
from fewshot.plots.episodes import as_image, save_figure

HEAD = """<meta charset=utf-8><meta name=viewport content=width=device-width>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:84em;margin:2em auto}table{border-collapse:collapse}
th,td{padding:.3em .7em;text-align:right;border-bottom:1px solid #ddd}img{max-width:100%}
div{overflow-x:auto}</style>"""
LATEX = {"±": r"$\pm$", "→": r"$\to$", "·": r"$\cdot$", "<": "$<$", ">": "$>$"} | {
    r"\begin{tabular}": "\\begin{adjustbox}{max width=\\linewidth}\n\\begin{tabular}",
    r"\end{tabular}": "\\end{tabular}\n\\end{adjustbox}",
}


@dataclass
class Report:
    """What a report says, in whatever format; tables hold text, and are named by their captions."""

    title: str
    notes: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)  # by their file names
    # unrounded, by the names of their csv files
    numbers: dict[str, pd.DataFrame] = field(default_factory=dict)


def show(report: Report, console: Console) -> None:
    console.print(Text(report.title, "bold"))
    for caption, frame in report.tables.items():
        table = Table(title=Text(caption), box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column(frame.columns[0], no_wrap=True)
        for name in frame.columns[1:]:
            table.add_column(name, justify="right", overflow="fold", no_wrap=name == "on")
        for row in frame.astype(str).itertuples(index=False):
            table.add_row(*map(Text, row))
        console.print(table)
    for note in report.notes:
        console.print(Text(note), soft_wrap=True)


def markdown(report: Report) -> str:
    parts = [f"# {report.title}", *report.notes]
    for caption, frame in report.tables.items():
        rule = ["---", *["---:"] * (len(frame.columns) - 1)]
        cells = frame.astype(str).replace(r"\|", r"\\|", regex=True).to_numpy().tolist()
        lines = [f"| {' | '.join(line)} |" for line in [list(frame.columns), rule, *cells]]
        parts.append(f"**{caption}**\n\n" + "\n".join(lines))
    parts += [f"![{name}]({name}.png)" for name in report.figures]
    return "\n\n".join(parts) + "\n"


def short(caption: str) -> str:
    """A table's name in files and references."""
    return re.split("[,:;]", caption)[0].replace(" ", "_")


def latex(report: Report) -> str:
    """Tables for booktabs, no wider than a line of the text."""
    parts = [f"% {line}" for line in [report.title, *report.notes, r"\usepackage{booktabs,adjustbox}"]]
    for caption, frame in report.tables.items():
        escaped = re.sub(r"([%&_#$])", r"\\\1", caption)  # pandas escapes cells only
        label = f"tab:{report.title.split()[0].rstrip(',')}-{short(caption).replace('_', '-')}"
        alignment = "l" + "r" * (frame.shape[1] - 1)
        text = frame.to_latex(index=False, escape=True, caption=escaped, label=label, column_format=alignment)
        for old, new in LATEX.items():
            text = text.replace(old, new)
        parts.append(text)
    return "\n".join(parts)


def page(report: Report) -> str:
    """One HTML page with the figures in it, after the first table."""
    title, tables, figures = html.escape(report.title), [], []
    for caption, frame in report.tables.items():
        table = frame.to_html(index=False, border=0).replace(" ± ", "&nbsp;±&nbsp;")
        tables.append(f"<h2>{html.escape(caption)}</h2><div>{table}</div>")
    for name, figure in report.figures.items():
        as_image(figure, dpi=150).save(png := BytesIO(), "PNG")
        data = base64.b64encode(png.getvalue()).decode()
        figures.append(f'<h2>{html.escape(name)}</h2><img src="data:image/png;base64,{data}">')
    notes = [f"<p>{html.escape(note)}</p>" for note in report.notes]
    body = "".join([f"<h1>{title}</h1>", *notes, *tables[:1], *figures, *tables[1:]])
    head = f"<head>{HEAD}<title>{title}</title></head>"
    return f"<!doctype html>\n<html lang=en>{head}<body>{body}</body></html>\n"


def write(report: Report, folder: Path, runs: pd.DataFrame) -> None:
    """Writes report.md, .tex and .html, csv files and figures; removes those of an earlier report."""
    for suffix, text in {"md": markdown(report), "tex": latex(report), "html": page(report)}.items():
        atomic_write(folder / f"report.{suffix}", text)
    frames = {short(caption): frame for caption, frame in report.tables.items()}
    frames |= report.numbers | {"runs": runs.drop(columns="scores")}
    for name, frame in frames.items():
        atomic_write(folder / f"{name}.csv", frame.to_csv(index=False))
    for name, figure in report.figures.items():
        save_figure(figure, folder / name)
    for path in folder.iterdir():
        if path.suffix in (".csv", ".png", ".pdf") and path.stem not in frames | report.figures:
            path.unlink()
