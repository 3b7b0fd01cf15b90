"""The programs of an installed package: `fewshot-train`, `fewshot-evaluate` and `python -m fewshot train …`."""

import sys

from fewshot import signals


def train() -> int:
    signals.listen()  # before anything slow, so that a signal ends in one line from the start
    from fewshot.cli import main, run_train

    return main(run_train, "train")


def evaluate() -> int:
    signals.listen()
    from fewshot.cli import main, run_evaluate

    return main(run_evaluate, "evaluate")


if __name__ == "__main__":
    if sys.argv[1:2] not in (["train"], ["evaluate"]):
        asked = sys.argv[1] if len(sys.argv) > 1 else "nothing"
        print(f"error: {asked} is no program: python -m fewshot train …, or evaluate …", file=sys.stderr)
        sys.exit(2)
    sys.exit(train() if sys.argv.pop(1) == "train" else evaluate())
