"""Tests a run's best validated state on its own data or another's.

python evaluate.py run=outputs/mini/oplstm/5-shot/seed0-… data=cub shots=5 queries=15
"""

import sys
from typing import Any

from omegaconf import DictConfig

from fewshot.cli import CONF, main


def run(cfg: DictConfig) -> dict[str, Any]:
    from fewshot.evaluation import evaluate  # torch takes seconds to import; mistakes are told before

    return evaluate(cfg)


if __name__ == "__main__":
    sys.exit(main(run, CONF + "/evaluate", "evaluate"))
