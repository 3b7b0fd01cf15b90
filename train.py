"""Trains, validates and tests one learner, or with -m a grid of them.

python train.py method=oplstm data=mini shots=5
python train.py -m method=protonet,oplstm shots=1,5 seed=0,1
"""

import sys
from typing import Any

from omegaconf import DictConfig

from fewshot.checks import check
from fewshot.cli import CONF, main


def run(cfg: DictConfig) -> dict[str, Any]:
    check(cfg)
    from fewshot.runs import train  # torch takes seconds to import; mistakes are told before

    return train(cfg)


if __name__ == "__main__":
    sys.exit(main(run, CONF, "train"))
