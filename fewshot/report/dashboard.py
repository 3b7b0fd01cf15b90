"""A study's dashboard in W&B, as a saved workspace: `python -m fewshot.report.dashboard table1`.

It shows the study's runs, their further tests and its report, by their names. Upload offline runs first by
`wandb sync`: those in outputs/*/*/*/*/wandb and outputs/reports/*/wandb.
"""

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from fewshot.config.run_id import run_name
from fewshot.report.jobs import jobs, name_of_report, run_program, sweep, title
from fewshot.results.record import name_of_test

MEAN: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}  # over the runs of a group


def workspace(study: str, overrides: Sequence[str] = ()) -> ws.Workspace:
    """The saved view of the study's runs, grouped over seeds, their further tests and the report."""
    swept, found = sweep(study, overrides), jobs(study, overrides)
    name, logger = name_of_report(title(study, overrides)), found[0].cfg.logger
    metric = found[0].tests[0]["metric"]
    shown, scores = [name], [f"test/{metric}"]
    for job in found:
        run = run_name(job.cfg, job.folder)
        shown += [run, *(f"{run}-on-{name_of_test(test)}" for test in job.tests[1:])]
        scores += [f"test/{test['data']}/{metric}" for test in job.tests[1:]]
    curves, costs = (f"val/{metric}", "val/loss", "train/loss"), ("tasks_per_second", "peak_memory_bytes")
    panels = dict[str, list[Any]]()
    panels["learning"] = [wr.LinePlot(title=curve, x="tasks", y=[curve], **MEAN) for curve in curves]
    for section, names in (("test", dict.fromkeys(scores)), ("throughput and memory", costs)):
        panels[section] = [wr.BarPlot(title=n, metrics=[wr.SummaryMetric(n)], **MEAN) for n in names]
    tables, groups = ["table", "in full", "pairs", "mean rank", "costs"], list[Any]()
    if "search" in swept:
        tables = ["trials"]
        panels["search"] = [wr.ParameterImportancePlot(with_respect_to="best_validation")]
    else:
        varied = [key for key, values in swept.items() if len(values) > 1 and key != "seed"]
        groups = [ws.Config(f"{key}.name" if key in ("method", "data") else key) for key in varied]
    panels["the report"] = [wr.WeavePanelSummaryTable(table_name=name) for name in tables]
    return ws.Workspace(
        entity=logger.entity or "",
        project=logger.project,
        name=name,
        sections=[ws.Section(name=name, panels=of, is_open=True) for name, of in panels.items()],
        runset_settings=ws.RunsetSettings(filters=ws.And(ws.Metric("Name").isin(shown)), groupby=groups),
    )


def main(study: str, overrides: Sequence[str]) -> None:
    view = workspace(study, overrides)
    view.save()
    print(view.url)


if __name__ == "__main__":
    run_program(main, __doc__)
