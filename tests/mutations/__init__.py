"""Changes of a sign, axis or name, each of which must turn a test red: `old => new || other` in *.txt."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LEARNERS = ("against_reference", "learners", "meta_gradients", "settings")
TESTS = {  # the beginning of a file's path: the tests that guard it, the fastest to fail first
    "fewshot/methods/base": ("learners", "against_reference"),
    "fewshot/methods/losses": ("learners", "against_reference"),
    "fewshot/methods": (*LEARNERS, "backbones", "update"),
    "fewshot/backbones/task_kernel": ("section6", "against_reference", "meta_gradients"),
    "fewshot/backbones": (*LEARNERS, "backbones", "pretrained"),
    "fewshot/episodes": ("episodes",),
    "fewshot/data/row_source": ("image_source", "episodes"),
    "fewshot/data/arrays": ("arrays",),
    "fewshot/data": ("distributed", "episodes"),
    "fewshot/options": ("meta_gradients", "cli"),
    "fewshot/config": ("studies", "report", "lightning", "results", "runs", "settings"),
    "fewshot/training/update": ("update",),
    "fewshot/training/distributed": ("distributed",),
    "fewshot/training/features": ("frozen",),
    "fewshot/training/evaluate": ("evaluate", "results"),
    "fewshot/results": ("results", "report"),
    "fewshot/report": ("report_pairs", "report"),
    "conf/search": ("studies",),
    "conf": ("settings", "studies"),
}


class Mutation(NamedTuple):
    """`old`, which occurs once in `file`, becomes `new`."""

    file: str
    old: str
    new: str


def read(table: Path) -> list[Mutation]:
    """A table has a file's path at the beginning of a line, and its mutations below."""
    file, mutations = "", []
    for line in table.read_text().splitlines():
        if line.startswith("    "):
            old, _, new = line[4:].partition(" =>")
            mutations += [Mutation(file, old, one) for one in new.removeprefix(" ").split(" || ")]
        else:
            file = line
    return mutations


def tests_of(file: str) -> list[str]:
    part = max((part for part in TESTS if file.startswith(part)), key=len)
    return [f"tests/test_{name}.py" for name in TESTS[part]]


MUTATIONS = [mutation for table in sorted(Path(__file__).parent.glob("*.txt")) for mutation in read(table)]
