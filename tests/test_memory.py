"""Memory is kept for the next step, and given back between the cells of a multirun."""

import resource

import pytest
import torch

from fewshot import memory
from fewshot.memory import forget_peak_memory, keep_freed_memory, peak_resident_bytes

pytestmark = pytest.mark.skipif(not memory.GLIBC, reason="other C libraries have no such settings")
MB = 2**20


def test_large_tensors_of_each_step_are_not_mapped_anew() -> None:
    keep_freed_memory()
    make_and_forget(64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        make_and_forget(64)
    mapped = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()
    assert mapped < 10 * 64 * MB  # the first few find other places


def test_a_cell_has_not_the_peak_of_the_one_before() -> None:
    keep_freed_memory()
    make_and_forget(512)
    before = peak_resident_bytes()
    forget_peak_memory()
    assert peak_resident_bytes() < before - 400 * MB


def make_and_forget(megabytes: int) -> None:
    torch.ones(megabytes * MB // 4)
