"""What stands above single runs: tables, figures and comparisons of a study's runs, beside the paper's numbers."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fewshot.report.frame import (
        load,
    )  # seconds, in which a report's command must already listen to signals

    return load
