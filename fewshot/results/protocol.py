"""Under what a score was measured: what may stand beside what, how a score is named, and where it is kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def as_settings(changed: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Dotted keys and their values, as JSON, in order."""
    return tuple(sorted((key, json.dumps(value)) for key, value in changed.items()))


def of_queries(queries: int) -> str:
    return "1 query" if queries == 1 else f"{queries} queries"


@dataclass(frozen=True)
class Protocol:
    """Two scores compare methods only where their protocols are equal.

    Attributes:
        trained_on, data: the data sets of training and of the test.
        ways, shots, queries: of the test's tasks; shots and queries a class (on sine a wave, with one way).
        trained_for: the shots of the validation, by which the state was chosen.
        tasks: number of test tasks; None where there was no test.
        variant: "released" or "paper".
        settings: what differs from the settings shipped for this method, data and variant, from `as_settings`.
        status: of the run, "finished" or why it is not.
        bn: whose statistics normalised the queries in the test, where that differs from training; "" otherwise.
    """

    trained_on: str
    data: str
    ways: int
    shots: int
    trained_for: int
    queries: int
    tasks: int | None
    variant: str
    settings: tuple[tuple[str, str], ...]
    status: str
    bn: str = ""

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> "Protocol":
        """The protocol of what `result.json`, or a file of `evaluations/`, holds."""
        return cls(
            result["trained_on"],
            result["data"],
            result["ways"],
            result["shots"],
            result["val_shots"],
            result["test_queries"],
            result["tasks"],
            result["variant"],
            as_settings(result["config_diff"]),
            result.get("run_status", result["status"]),
            result["bn"] if result.get("train_bn") not in (None, result.get("bn")) else "",
        )

    def __str__(self) -> str:
        ways = f"{self.ways}-way " if self.ways > 1 else ""
        queries = of_queries(self.queries) + (" a class" if ways else "")
        elsewhere = f", trained on {self.trained_on}" if self.trained_on != self.data else ""
        otherwise = f", trained for {self.trained_for}-shot" if self.trained_for != self.shots else ""
        unfinished = f", run {self.status}" if self.status != "finished" else ""
        bn = f", tested with bn {self.bn}" if self.bn else ""
        return f"{ways}{self.shots}-shot, {self.tasks} tasks, {queries}{elsewhere}{otherwise}{bn}{unfinished}"

    def file_name(self, table: str) -> str:
        """For a test on `table`, the data set's name or what tells one folder from others."""
        bn = f"-bn-{self.bn}" if self.bn else ""
        return f"{table}-{self.ways}way-{self.shots}shot-{self.queries}queries-{self.tasks}tasks{bn}"
