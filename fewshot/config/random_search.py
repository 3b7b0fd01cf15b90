"""Random search without a database: a trial's setting is a function of (search, its seed, trial, setting).

A search's YAML says `lr: ${draw:lr,log,1e-5,4e-2}`, and is swept over `trial`: the same trials in any order,
on any number of machines, and nothing to lock or to lose.
"""

import hashlib
import math
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf

from fewshot.episodes import random_bits, uniform


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


OmegaConf.register_new_resolver("draw", draw, replace=True)
OmegaConf.register_new_resolver("stacked", stacked, replace=True)
