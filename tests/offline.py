"""Reads what W&B keeps of an offline run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEAD, LAST = 32768, 7, (1, 4)  # the kinds of a record's only and of its last part


def records(folder: Path) -> Iterator[Record]:
    """The records of all W&B files of a run's folder, oldest first."""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, record = path.read_bytes(), HEAD, b""
        while at + HEAD <= len(data):
            if BLOCK - at % BLOCK < HEAD:  # no part begins there
                at += BLOCK - at % BLOCK
                continue
            end = at + HEAD + int.from_bytes(data[at + 4 : at + 6], "little")
            record += data[at + HEAD : end]
            if data[at + 6] in LAST:
                yield Record.FromString(record)
                record = b""
            at = end


def plain(items: Any) -> dict[str, Any]:
    """Items of a record by name; what lies in an item has a name with dots."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(folder: Path) -> list[dict[str, Any]]:
    """The logged rows."""
    return [plain(record.history.item) for record in records(folder) if record.HasField("history")]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(folder):
        found |= plain(record.summary.update) if record.HasField("summary") else {}
    return found
