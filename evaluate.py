"""Tests a run's best validated state on its own data or another's.

python evaluate.py run=outputs/mini/oplstm/5-shot/seed0-… data=cub shots=5 queries=15
"""

import sys

from fewshot import stopping

if __name__ == "__main__":
    stopping.listen()  # before anything slow, so that a signal ends in one line from the start
    from fewshot.cli import main, run_evaluate

    sys.exit(main(run_evaluate, "evaluate"))
