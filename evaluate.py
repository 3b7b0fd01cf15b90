"""Tests a run's best validated state on its own data or another's.

python evaluate.py run=outputs/mini/oplstm/5-shot/seed0-… data=cub shots=5 queries=15
"""

import sys

from fewshot.cli import evaluate_run

if __name__ == "__main__":
    sys.exit(evaluate_run())
