"""Tests a run's best validated state on its own data or another's.

python evaluate.py run=outputs/mini/oplstm/5-shot/seed0-… data=cub shots=5 queries=15
"""

import sys

from fewshot.__main__ import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
