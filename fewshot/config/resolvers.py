"""The resolvers of `conf/`: values by another setting or by the size of a meta-batch, and random searches.

A search needs no database: a trial's setting is a function of (search, its seed, trial, setting). Its YAML
says `lr: ${draw:lr,log,1e-5,4e-2}`, and is swept over `trial`: the same in any order, on any machines.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf

from fewshot.episodes import random_bits, uniform


def by(key: str, table: Mapping[Any, Any], *, _root_: DictConfig) -> Any:
    """The entry of `table` for the value of setting `key`, or `other`; "???" where there is none."""
    found = table.get(OmegaConf.select(_root_, key), table.get("other", "???"))
    return OmegaConf.create(found) if isinstance(found, list) else found


def per_meta_batch(amount: float, size: int) -> float:
    """The share of a meta-batch of `size` tasks; a number of tasks becomes a number of meta-batches."""
    return round(amount / size) if isinstance(amount, int) else amount / size


def quarter(steps: int) -> int:
    return max(steps // 4, 1)


def draw(name: str, kind: str, *among: Any, _root_: DictConfig) -> Any:
    """What trial `trial` of search `study` has for the setting `name`.

    Args:
        kind: "choice" of a list; "int", a whole number from a to b, both included; "log", a real number from
            a to b, uniform in its logarithm, and "log_int", the nearest whole number of one.
    """
    digest = hashlib.sha256(f"{_root_.study}/{_root_.search_seed}/{name}".encode()).digest()
    key = np.frombuffer(digest[:8], dtype="<u8")
    where = float(uniform(random_bits(key, np.uint64(_root_.trial)), 0, 1)[0])
    if kind == "choice":
        [options] = among
        chosen = options[int(where * len(options))]
        return OmegaConf.create(chosen) if isinstance(chosen, list) else chosen
    low, high = among
    if kind == "int":
        return int(low) + int(where * (int(high) - int(low) + 1))
    value = math.exp(math.log(low) + where * (math.log(high) - math.log(low)))
    return value if kind == "log" else round(value)


def stacked(units: int, layers: int, *last: int) -> ListConfig:
    """A stack of equal layers, with the units of further ones."""
    return OmegaConf.create([units] * layers + list(last))


for resolver in (by, per_meta_batch, quarter, draw, stacked):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
