"""The programs of an installed package: `fewshot-train`, `fewshot-evaluate`, `python -m fewshot train`."""

import sys

from fewshot.cli import evaluate_job, main, train_job


def train() -> int:
    return main(train_job)


def evaluate() -> int:
    return main(evaluate_job)


if __name__ == "__main__":
    programs = {"train": train, "evaluate": evaluate}
    if len(sys.argv) < 2 or sys.argv[1] not in programs:
        print("usage: python -m fewshot train|evaluate [setting=value ...]", file=sys.stderr)
        sys.exit(2)
    sys.exit(programs[sys.argv.pop(1)]())
