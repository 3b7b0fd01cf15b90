"""The YAML of a W&B sweep over a study: `python -m fewshot.report.sweep lstm_sine > sweep.yaml`.

Then `wandb sweep sweep.yaml` and `wandb agent …` on any number of machines: each agent runs jobs of the
study, into the same folders as `python train.py -m search=lstm_sine`.
"""

import sys
from collections.abc import Sequence

import yaml

from fewshot.config.compose import composed
from fewshot.errors import exit_code
from fewshot.report.jobs import choice, params, parse, values


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments else 2
    chosen, parameters = choice(arguments[0]), {}
    for swept in parse([f"{key}={space}" for key, space in params(arguments[0], []).items()]):
        parameters[swept.get_key_element()] = {"values": values(swept)}
    goal = "minimize" if composed([chosen]).data.name == "sine" else "maximize"
    sweep = {"program": "train.py", "method": "grid", "metric": {"name": "best_validation", "goal": goal}}
    command = ["${env}", "python", "train.py", chosen, "${args_no_hyphens}"]
    print(yaml.safe_dump(sweep | {"parameters": parameters, "command": command}, sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
