"""A study's dashboard in W&B, as a saved workspace: `python -m fewshot.report.dashboard table1`.

It shows the study's runs, their further tests and its report, by their names. Upload offline runs first by
`wandb sync`: those in outputs/*/*/*/*/wandb and outputs/reports/*/wandb. With `spec` after the study's name
it prints what it would send, and needs no server.
"""

import sys
from collections.abc import Sequence
from typing import Any

from fewshot.config.compose import choices_of
from fewshot.config.run_id import run_name
from fewshot.errors import UserError, exit_code
from fewshot.report.jobs import Job, jobs, params, parse, title, wandb_name
from fewshot.report.search import settings_of
from fewshot.results.record import name_of_test

GROUPS = ("method", "data", "backbone")  # of a run's config: their values there are the names of the choices
MEAN: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}  # over the runs of a group


def sections(study: str, found: Sequence[Job]) -> dict[str, list[Any]]:
    """The panels, by the names of their sections."""
    import wandb_workspaces.reports.v2 as wr

    def bar(name: str) -> Any:
        return wr.BarPlot(title=name, metrics=[wr.SummaryMetric(name)], **MEAN)

    metric, tables = found[0].metric, ["table", "in full", "pairs", "mean rank", "costs"]
    further = sorted({f"test/{test['data']}/{metric}" for job in found for test in job.tests[1:]})
    shown: dict[str, list[Any]] = {"learning": []}
    for name in (f"val/{metric}", "val/loss", "train/loss"):
        plot = wr.LinePlot(title=f"{name} by training tasks", x="tasks", y=[name], **MEAN)
        shown["learning"].append(plot)
    shown["test"] = [bar(name) for name in (f"test/{metric}", *further)]
    shown["throughput and memory"] = [bar(name) for name in ("tasks_per_second", "peak_memory_bytes")]
    if study in choices_of("search"):
        tables, keys = ["trials, by their best validation", "rank correlation with it"], list[str]()
        for name, values in settings_of(found).items():
            keys += [f"layers.{name}", f"units.{name}"] if isinstance(values[0], list) else [str(name)]
        columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in keys]
        columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("best_validation")))
        importance = wr.ParameterImportancePlot(with_respect_to="best_validation")
        shown["search"] = [wr.ParallelCoordinatesPlot(columns=columns, title="trials"), importance]
    return shown | {"the report": [wr.WeavePanelSummaryTable(table_name=name) for name in tables]}


def names(study: str, overrides: Sequence[str], found: Sequence[Job]) -> list[str]:
    """The names in W&B of the study's report, runs and further tests."""
    runs, tests = [wandb_name(title(study, overrides, any(job.reduced for job in found)))], list[str]()
    for job in found:
        runs.append(run_name(job.cfg, job.folder))
        tests += [f"{runs[-1]}-on-{name_of_test(test, test['data'])}" for test in job.tests[1:]]
    return runs + tests


def grouped(study: str, overrides: Sequence[str]) -> list[str]:
    """The keys of a run's config, but for its seed, that tell groups of runs apart; none in a search."""
    if study in choices_of("search"):
        return []
    swept = [override.key_or_group for override in parse(overrides) if override.is_sweep_override()]
    keys = [key for key in dict.fromkeys([*params(study, []), *swept]) if key != "seed"]
    return [f"{key}.name" if key in GROUPS else key for key in keys]


def workspace(study: str, overrides: Sequence[str], found: Sequence[Job]) -> Any:
    """The saved view of the study's runs and report."""
    import wandb_workspaces.workspaces as ws

    chosen = names(study, overrides, found)
    groups: list[Any] = [ws.Config(key) for key in grouped(study, overrides)]
    runs = ws.RunsetSettings(filters=ws.And(ws.Metric("Name").isin(chosen)), groupby=groups)
    opened = [ws.Section(name=name, panels=of, is_open=True) for name, of in sections(study, found).items()]
    where = {"entity": found[0].cfg.logger.entity or "", "project": found[0].cfg.logger.project}
    return ws.Workspace(**where, name=chosen[0], sections=opened, runset_settings=runs)


def main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if arguments else 2
    study, *overrides = [argument for argument in arguments if argument != "spec"]
    found = jobs(study, overrides)
    if found[0].cfg.logger.name != "wandb":
        raise UserError("a dashboard needs logger=wandb")
    try:
        view = workspace(study, overrides, found)
    except ImportError:
        raise UserError("a dashboard needs wandb-workspaces: pip install '.[dashboard]'") from None
    if "spec" in arguments:
        print(view._to_model().model_dump_json(by_alias=True, indent=1))
        return 0
    view.save()
    print(view.url)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
