"""The YAML of a W&B sweep over a study's space: `python -m fewshot.report.sweep lstm_sine > sweep.yaml`.

Then `wandb sweep sweep.yaml` and `wandb agent …`, on as many machines as there are: each agent runs cells of the study,
into the same folders as `python train.py -m search=lstm_sine`.
"""

from fewshot import signals

if __name__ == "__main__":
    signals.listen()  # before anything slow, so that a signal ends in one line from the start

import sys
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from fewshot.config.compose import composed
from fewshot.errors import UserError
from fewshot.mistakes import say
from fewshot.report.runs import choice, params


def sweep(study: str) -> dict[str, Any]:
    """What W&B's sweep is told: a grid over what the study sweeps.

    Raises:
        UserError: there is no such study.
    """
    parameters, sine = {}, composed([choice(study)]).data.name == "sine"
    if not (space := params(study, [])):
        raise UserError(f"{study} is a single run: there is nothing to sweep")
    for swept in OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in space.items()]):
        values = list(swept.sweep_string_iterator()) if swept.is_sweep_override() else [str(swept.value())]
        parameters[swept.get_key_element()] = {"values": [value.strip("'") for value in values]}
    return {
        "program": "train.py",
        "method": "grid",
        "metric": {"name": "best_validation", "goal": "minimize" if sine else "maximize"},
        "parameters": parameters,
        "command": ["${env}", "python", "train.py", choice(study), "${args_no_hyphens}"],
    }


def main(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        if len(arguments) != 1:
            raise UserError("name one study, as lstm_sine")
        print(yaml.safe_dump(sweep(arguments[0]), sort_keys=False), end="")
    except UserError as error:
        return say(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
