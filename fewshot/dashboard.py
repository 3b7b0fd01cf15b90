"""A study's dashboard in W&B, a saved workspace and a report page: `python -m fewshot.dashboard table1`.

It shows exactly the study's runs, what evaluate.py tested of them, and its report, by their names. They must be there:
offline ones are sent by `wandb sync`, those of outputs/*/*/*/*/wandb and of outputs/reports/*/wandb. With `spec` after
the study's name it prints what it would send, and needs no server.
"""

from fewshot import signals

if __name__ == "__main__":
    signals.listen()  # before anything slow, so that a signal ends in one line from the start

import json
import sys
from collections.abc import Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fewshot.config.eval_config import further_tests
from fewshot.config.run_id import is_reduced, run_name
from fewshot.config.settings import choices_of
from fewshot.errors import UserError
from fewshot.mistakes import say
from fewshot.report.runs import Cell, cells, in_wandb, params, parsed, title
from fewshot.report.search import searched
from fewshot.report.tested import planned
from fewshot.training.finished import table_of

GROUPS = ("method", "data", "backbone")  # of a run's config, which are told by their names


def sections(study: str, found: Sequence[Cell]) -> dict[str, list[Any]]:
    """The panels, by the names of their sections."""
    import wandb_workspaces.reports.v2 as wr

    metric = found[0].metric
    search = study in choices_of("search")
    tables = ["trials, by their best validation", "rank correlation with it"]
    tables = tables if search else ["table", "in full", "pairs", "mean rank", "costs"]
    means: dict[str, Any] = {
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
    }  # of the groups of runs
    curves = [
        wr.LinePlot(title=f"{name} by training tasks", x="tasks", y=[name], **means)
        for name in (f"val/{metric}", "val/loss", "train/loss")
    ]
    kinds = {cell.kind: cell.cfg for cell in found}
    tested = [table_of(further) for cfg in kinds.values() for further in further_tests(cfg)]
    further = [f"test/{name}/{metric}" for name in dict.fromkeys(tested)]
    shown: dict[str, list[Any]] = {
        "learning": curves,
        "test": [
            wr.BarPlot(title=name, metrics=[wr.SummaryMetric(name)], **means)
            for name in (f"test/{metric}", *further)
        ],
        "throughput and memory": [
            wr.BarPlot(title=name, metrics=[wr.SummaryMetric(name)], **means)
            for name in ("tasks_per_second", "peak_memory_bytes")
        ],
        "the report": [wr.WeavePanelSummaryTable(table_name=name) for name in tables],
    }
    if search:
        keys = list[str]()
        for name, values in searched(found).items():
            keys += [f"layers.{name}", f"units.{name}"] if isinstance(values[0], list) else [name]
        columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in keys]
        columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("best_validation")))
        importance = wr.ParameterImportancePlot(with_respect_to="best_validation")
        shown["search"] = [wr.ParallelCoordinatesPlot(columns=columns, title="trials"), importance]
    return shown


def names(study: str, told: Sequence[str], found: Sequence[Cell]) -> list[str]:
    """Of the study's report, runs and tests in W&B, in this order."""
    kinds = {cell.kind: cell.cfg for cell in found}
    of_report = in_wandb(title(study, told, any(map(is_reduced, kinds.values()))))
    plans = {kind: planned(cfg).items() for kind, cfg in kinds.items()}
    runs = {run_name(cell.cfg, cell.folder): plans[cell.kind] for cell in found}
    tests = [
        f"{run}-on-{p.file_name(data)}"
        for run, plan in runs.items()
        for data, p in plan
        if data != p.trained_on
    ]
    return [of_report, *runs, *tests]


def grouped(study: str, told: Sequence[str], found: Sequence[Cell]) -> list[str]:
    """The keys of a run's config by which seeds are put together; each trial of a search is alone.

    Raises:
        UserError: the study sweeps what is no setting of a run, as profiles.
    """
    if study in choices_of("search"):
        return []
    more = [override.key_or_group for override in parsed(told) if override.is_sweep_override()]
    keys = [key for key in dict.fromkeys([*params(study, []), *more]) if key != "seed"]
    if strange := [key for key in keys if OmegaConf.select(found[0].cfg, key, default=MISSING) is MISSING]:
        raise UserError(
            f"{strange[0]}=…: runs are grouped by their settings, of which this is none: choose one of its values"
        )
    return [f"{key}.name" if key in GROUPS else key for key in keys]


def workspace(study: str, told: Sequence[str], found: Sequence[Cell]) -> Any:
    """The saved view, of the study's runs and its report."""
    import wandb_workspaces.workspaces as ws

    where: Any = OmegaConf.to_container(found[0].cfg.logger, resolve=True)
    shown = [
        ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections(study, found).items()
    ]
    of, groups = names(study, told, found), list[Any](map(ws.Config, grouped(study, told, found)))
    only = ws.RunsetSettings(filters=ws.And(ws.Metric("Name").isin(of)), groupby=groups)
    place = {"entity": where["entity"] or "", "project": where["project"]}
    return ws.Workspace(**place, name=of[0], sections=shown, runset_settings=only)


def page(study: str, told: Sequence[str], found: Sequence[Cell]) -> Any:
    """The same as a report page."""
    import wandb_workspaces.reports.v2 as wr

    where: Any = OmegaConf.to_container(found[0].cfg.logger, resolve=True)
    place = {"entity": where["entity"] or "", "project": where["project"]}
    of, groups = names(study, told, found), [f"config.{key}" for key in grouped(study, told, found)]
    runs = wr.Runset(**place, name=of[0], filters=f"Metric('Name') in {of}", groupby=groups)
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in sections(study, found).items():
        blocks += [wr.H1(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(**place, title=of[0], blocks=blocks)


def main(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        if not arguments:
            raise UserError("name a study, as table1; spec after it prints what would be sent")
        study, *told = arguments
        spec, told = "spec" in told, [setting for setting in told if setting != "spec"]
        found = cells(study, told)
        if found[0].cfg.logger.name != "wandb":
            raise UserError("a dashboard is of logger=wandb")
        view, report = workspace(study, told, found), page(study, told, found)
    except ImportError:
        return say(UserError("a dashboard needs wandb-workspaces: pip install '.[dashboard]'"))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return say(error)
    if spec:
        print(json.dumps(json.loads(view._to_model().model_dump_json(by_alias=True)), indent=1))
        return 0
    for made in (view, report):
        try:
            made.save()
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            print(
                f"error: W&B did not take it ({type(error).__name__}: {line}): are you logged in?",
                file=sys.stderr,
            )
            return 1
        print(made.url)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
