"""A report as Markdown, LaTeX, CSV and HTML, and as a run of W&B."""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from fewshot.files import atomic_write
from fewshot.plots.episodes import save_figure
from fewshot.report.jobs import wandb_name

HEAD = """<!doctype html><meta charset=utf-8><style>body{font:15px sans-serif;margin:2em}
th,td{padding:.3em .7em;text-align:right;border-bottom:1px solid #ddd}img{max-width:100%}</style>"""


@dataclass
class Report:
    """What a report says, in whatever format, by the names of tables and figures."""

    title: str
    notes: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # of text
    figures: dict[str, Figure] = field(default_factory=dict)
    numbers: dict[str, pd.DataFrame] = field(default_factory=dict)  # csv files


def as_markdown(frame: pd.DataFrame) -> str:
    """A Markdown table whose columns are aligned as text too."""
    rows = [list(frame.columns), *frame.to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(map(str.rjust, row, widths)) for row in rows]
    lines.insert(1, " | ".join("-" * (width - 1) + ":" for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def markdown(report: Report) -> str:
    tables = [f"**{name}**\n\n{as_markdown(frame)}" for name, frame in report.tables.items()]
    return "\n\n".join([f"# {report.title}", *report.notes, *tables]) + "\n"


def write(report: Report, folder: Path) -> None:
    """Writes report.md, .tex (for booktabs and T1 fonts) and .html, csv files and figures."""
    md, tex, page = markdown(report), "", f"{HEAD}<h1>{escape(report.title)}</h1>"
    page += "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in report.figures.items():
        save_figure(figure, folder / name)
        md += f"\n![{name}]({name}.png)\n"
        page += f'<img src="{name}.png">'
    for name, table in report.tables.items():
        tex += table.to_latex(index=False, escape=True, caption=name)
        page += f"<h2>{name}</h2>{table.to_html(index=False, border=0)}"
    for name, frame in report.numbers.items():
        atomic_write(folder / f"{name}.csv", frame.to_csv(index=False))
    for suffix, text in {"md": md, "tex": tex, "html": page}.items():
        atomic_write(folder / f"report.{suffix}", text)


def log_to_wandb(report: Report, cfg: DictConfig, folder: Path) -> None:
    """Logs tables and figures as a W&B run, the same each time, offline unless the user is logged in."""
    import wandb

    from fewshot.training.wandb_log import wandb_settings

    shown: dict[str, Any] = {name: wandb.Image(figure) for name, figure in report.figures.items()}
    shown |= {name: wandb.Table(dataframe=frame) for name, frame in report.tables.items()}
    run = wandb.init(
        entity=cfg.logger.entity,
        project=cfg.logger.project,
        group=cfg.logger.group or cfg.study,
        name=wandb_name(report.title),
        job_type="report",
        tags=[cfg.study, "report", *cfg.logger.tags],
        **wandb_settings(folder),
    )
    run.log(shown)
    run.summary["notes"] = "\n".join(report.notes)
    run.finish()
