"""Memory of this process: what it keeps, and the most it had."""

import ctypes
import platform
import sys
from contextlib import suppress
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
C = ctypes.CDLL(None) if sys.platform == "linux" else None
GLIBC = hasattr(C, "mallopt") and hasattr(C, "malloc_trim")


def keep_freed_memory() -> None:
    """Freed memory stays here for the next tensors, up to 2 GB at the end of what there is.

    Otherwise glibc gives back large tensors, and their pages are cleared anew in each step: a third of the time of
    Conv-4 on 84×84 images.
    """
    if C is not None and GLIBC:
        C.mallopt(M_MMAP_MAX, 0)
        C.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def forget_peak_memory() -> None:
    """So that the next peak is of what follows, and not of an earlier cell in this process."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if C is not None and GLIBC:
        C.malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux's word for it


def peak_resident_bytes() -> int:
    import resource  # not on every platform

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
