"""Reads what W&B keeps of an offline run; W&B itself has no reader for Python."""

import json
import time
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEAD, LAST = 32768, 7, (1, 4)  # LevelDB's log format; the types of a record's only and last chunk


def read(path: Path) -> list[Record]:
    data, at, record, found = path.read_bytes(), HEAD, b"", []
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:  # padding
            at += BLOCK - at % BLOCK
            continue
        end = at + HEAD + int.from_bytes(data[at + 4 : at + 6], "little")
        record += data[at + HEAD : end]
        if data[at + 6] in LAST and end <= len(data):
            found.append(Record.FromString(record))
            record = b""
        at = end
    return found


def records(folder: Path) -> list[Record]:
    """The records of all W&B files in the folder of a finished run, oldest first."""
    found: list[Record] = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        until = time.monotonic() + 30
        while not (new := read(path)) or not new[-1].HasField("exit"):  # W&B still writes after finish()
            assert time.monotonic() < until, f"{path} has no end"
            time.sleep(0.1)
        found += new
    return found


def values(items: Any) -> dict[str, Any]:
    """A record's items by name; nested names are joined by dots."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(folder: Path) -> list[dict[str, Any]]:
    return [values(record.history.item) for record in records(folder) if record.HasField("history")]


def summary(folder: Path) -> dict[str, Any]:
    updates = [values(record.summary.update) for record in records(folder) if record.HasField("summary")]
    return {name: value for update in updates for name, value in update.items()}
