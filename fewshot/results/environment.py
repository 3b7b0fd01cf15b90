"""The environment of a result: device, precision, threads, memory, versions, commit."""

import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch

PACKAGES = ("torch", "lightning", "torchvision", "torchmetrics", "hydra-core", "numpy")


def environment(trainer: L.Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    on_gpu = device.type == "cuda"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        # reserved: only that counts CUDA graphs
        "peak_memory_bytes": torch.cuda.max_memory_reserved(device) if on_gpu else resident,
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }


def processor() -> str:
    """The processor's name and number of cores."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{name[1].strip() if name else platform.machine()}, {os.cpu_count()} cores"


def git_commit() -> str | None:
    """The commit of this checkout, with '+' for uncommitted changes; None without a checkout or git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return None


def reset_peak_memory() -> None:
    """Forgets the peak memory of an earlier job in this process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/clear_refs").write_text("5")
