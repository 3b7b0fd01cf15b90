"""Trains, validates and tests one learner, or with -m a grid of them.

python train.py method=oplstm data=mini shots=5
python train.py -m method=protonet,oplstm shots=1,5 seed=0,1
"""

import sys

from fewshot import stopping

if __name__ == "__main__":
    stopping.listen()  # before anything slow, so that a signal ends in one line from the start
    from fewshot.cli import main, run_train

    sys.exit(main(run_train, "train"))
