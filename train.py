"""Trains, validates and tests one learner, or with -m a grid of them.

python train.py method=oplstm data=mini shots=5
python train.py -m method=protonet,oplstm shots=1,5 seed=0,1
"""

import sys

from fewshot.cli import train

if __name__ == "__main__":
    sys.exit(train())
