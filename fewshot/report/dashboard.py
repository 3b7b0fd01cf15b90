"""A study's dashboard in W&B, as a saved workspace: `python -m fewshot.report.dashboard table1`.

It shows the study's runs, their further tests and its report, by their names. Upload offline runs first by
`wandb sync`: those in outputs/*/*/*/*/wandb and outputs/reports/*/wandb.
"""

import sys
from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from fewshot.config.compose import choices_of
from fewshot.config.run_id import run_name
from fewshot.errors import exit_code
from fewshot.report.jobs import Job, jobs, sweep, title, wandb_name
from fewshot.report.search import settings_of
from fewshot.results.record import name_of_test

MEAN: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}  # over the runs of a group


def bars(names: Sequence[str]) -> list[Any]:
    return [wr.BarPlot(title=name, metrics=[wr.SummaryMetric(name)], **MEAN) for name in names]


def summaries(names: Sequence[str]) -> list[Any]:
    return [wr.WeavePanelSummaryTable(table_name=name) for name in names]


def sections(study: str, found: Sequence[Job]) -> dict[str, list[Any]]:
    """The panels, by the names of their sections."""
    metric = "mse" if found[0].cfg.data.name == "sine" else "accuracy"
    further = sorted({f"test/{test['data']}/{metric}" for job in found for test in job.tests[1:]})
    curves = (f"val/{metric}", "val/loss", "train/loss")
    shown = {
        "learning": [wr.LinePlot(title=name, x="tasks", y=[name], **MEAN) for name in curves],
        "test": bars([f"test/{metric}", *further]),
        "throughput and memory": bars(["tasks_per_second", "peak_memory_bytes"]),
        "the report": summaries(["table", "in full", "pairs", "mean rank", "costs"]),
    }
    if study in choices_of("search"):
        keys = list[str]()
        for name, values in settings_of(found).items():
            keys += [f"layers.{name}", f"units.{name}"] if isinstance(values[0], list) else [str(name)]
        metrics: list[Any] = [*(wr.Config(key) for key in keys), wr.SummaryMetric("best_validation")]
        columns = [wr.ParallelCoordinatesPlotColumn(metric) for metric in metrics]
        importance = wr.ParameterImportancePlot(with_respect_to="best_validation")
        shown["search"] = [wr.ParallelCoordinatesPlot(columns=columns, title="trials"), importance]
        shown["the report"] = summaries(["trials", "rank correlation"])
    return shown


def names(study: str, overrides: Sequence[str], found: Sequence[Job]) -> list[str]:
    """The names in W&B of the study's report, runs and further tests."""
    shown = [wandb_name(title(study, overrides))]
    for job in found:
        name = run_name(job.cfg, job.folder)
        shown += [name, *(f"{name}-on-{name_of_test(test, test['data'])}" for test in job.tests[1:])]
    return shown


def grouped(study: str, overrides: Sequence[str]) -> list[str]:
    """The keys of a run's config, but for its seed, that tell groups of runs apart; none in a search."""
    if study in choices_of("search"):
        return []
    swept = [o.key_or_group for o in sweep(study, overrides).values() if o.is_sweep_override()]
    return [f"{key}.name" if key in ("method", "data", "backbone") else key for key in swept if key != "seed"]


def workspace(study: str, overrides: Sequence[str], found: Sequence[Job]) -> ws.Workspace:
    """The saved view of the study's runs and report."""
    chosen, logger = names(study, overrides, found), found[0].cfg.logger
    groups: list[Any] = [ws.Config(key) for key in grouped(study, overrides)]
    return ws.Workspace(
        entity=logger.entity or "",
        project=logger.project,
        name=chosen[0],
        sections=[
            ws.Section(name=name, panels=of, is_open=True) for name, of in sections(study, found).items()
        ],
        runset_settings=ws.RunsetSettings(filters=ws.And(ws.Metric("Name").isin(chosen)), groupby=groups),
    )


def main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if arguments else 2
    study, *overrides = arguments
    view = workspace(study, overrides, jobs(study, overrides))
    view.save()
    print(view.url)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
