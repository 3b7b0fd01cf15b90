"""Tests a run's best validated state on its own data or another's.

python evaluate.py run=outputs/mini/oplstm/5-shot/seed0-… data=cub shots=5 queries=15
"""

import sys
from typing import TYPE_CHECKING, Any

from fewshot import stopping

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(cfg: "DictConfig") -> dict[str, Any]:
    from fewshot.config.checks import check_evaluation

    check_evaluation(cfg)
    from fewshot.runs.evaluate import evaluate  # torch takes seconds to import; mistakes are told before

    return evaluate(cfg)


if __name__ == "__main__":
    stopping.listen()  # before anything slow, so that a signal ends in one line from the start
    from fewshot.cli import main

    sys.exit(main(run, "evaluate"))
