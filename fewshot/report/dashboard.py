"""A study's dashboard in W&B, as a saved workspace: `python -m fewshot.report.dashboard table1`.

It shows the study's runs, their further tests and its report, by their names. Upload offline runs first by
`wandb sync`: those in outputs/*/*/*/*/wandb and outputs/reports/*/wandb.
"""

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from fewshot.config.run_id import run_name
from fewshot.report.jobs import Job, command, jobs, sweep, title, wandb_name
from fewshot.results.record import name_of_test

MEAN: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}  # over the runs of a group


def sections(found: Sequence[Job], searched: bool) -> dict[str, list[Any]]:
    """The panels, by the names of their sections."""

    def bars(*names: str) -> list[Any]:
        return [wr.BarPlot(title=name, metrics=[wr.SummaryMetric(name)], **MEAN) for name in names]

    metric = found[0].tests[0]["metric"]
    curves = (f"val/{metric}", "val/loss", "train/loss")
    further = sorted({f"test/{test['data']}/{metric}" for job in found for test in job.tests[1:]})
    tables = ["trials"] if searched else ["table", "in full", "pairs", "mean rank", "costs"]
    return {
        "learning": [wr.LinePlot(title=name, x="tasks", y=[name], **MEAN) for name in curves],
        "test": bars(f"test/{metric}", *further),
        "throughput and memory": bars("tasks_per_second", "peak_memory_bytes"),
        "search": [wr.ParameterImportancePlot(with_respect_to="best_validation")] * searched,
        "the report": [wr.WeavePanelSummaryTable(table_name=name) for name in tables],
    }


def workspace(study: str, overrides: Sequence[str] = ()) -> ws.Workspace:
    """The saved view of the study's runs, grouped over seeds, their further tests and the report."""
    swept, found = sweep(study, overrides), jobs(study, overrides)
    name, logger = wandb_name(title(study, overrides)), found[0].cfg.logger
    shown = [name]
    for job in found:
        run = run_name(job.cfg, job.folder)
        shown += [run, *(f"{run}-on-{name_of_test(test, test['data'])}" for test in job.tests[1:])]
    varied = [key for key, values in swept.items() if len(values) > 1 and key != "seed"]
    groups = [ws.Config(f"{key}.name" if key in ("method", "data") else key) for key in varied]
    runs = {"filters": ws.And(ws.Metric("Name").isin(shown)), "groupby": [] if "search" in swept else groups}
    panels = sections(found, "search" in swept).items()
    return ws.Workspace(
        entity=logger.entity or "",
        project=logger.project,
        name=name,
        sections=[ws.Section(name=name, panels=of, is_open=True) for name, of in panels if of],
        runset_settings=ws.RunsetSettings(**runs),
    )


def main(study: str, overrides: Sequence[str]) -> None:
    view = workspace(study, overrides)
    view.save()
    print(view.url)


if __name__ == "__main__":
    command(main, __doc__)
