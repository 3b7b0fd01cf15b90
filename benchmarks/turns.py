"""The process of one commit in a comparison: times what `compare.py` asks for, a line of JSON each way."""

import json
import os
import sys
from typing import Any

import fewshot
from benchmarks.cases import Step, build
from benchmarks.clock import Times, one_turn, use_threads, warm_up


def main(threads: int, device: str, settings: list[str]) -> None:
    """Answers {"name", "kind", "seconds"} with the wall and CPU seconds of some steps, or with an error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a learner prints is no answer
    use_threads(threads)
    steps: dict[tuple[str, str], Step] = {}

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        key, times = (asked["name"], asked["kind"]), Times()
        if key not in steps:
            steps[key] = getattr(build(asked["name"], device, settings), asked["kind"])()
            warm_up(steps[key], asked["seconds"])
        one_turn(times, steps[key], device.startswith("cuda"), asked["seconds"])
        return {"wall": times.wall, "cpu": times.cpu}

    print(json.dumps({"package": os.path.dirname(fewshot.__file__)}), file=out, flush=True)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:  # an older commit may lack what a case needs
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
