"""Trains, validates and tests one learner, or with -m a grid of them.

python train.py method=oplstm data=mini shots=5
python train.py -m method=protonet,oplstm shots=1,5 seed=0,1
"""

import sys
from typing import TYPE_CHECKING, Any

from fewshot import stopping

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(cfg: "DictConfig") -> dict[str, Any]:
    from fewshot.config.checks import check

    check(cfg)
    from fewshot.runs.train import train  # torch takes seconds to import; mistakes are told before

    return train(cfg)


if __name__ == "__main__":
    stopping.listen()  # before anything slow, so that a signal ends in one line from the start
    from fewshot.cli import main

    sys.exit(main(run, "train"))
