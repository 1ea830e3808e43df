"""Memory of this process, or of its GPU, in MB."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Forgets earlier peaks, where the system can (Linux, CUDA); else `peak` is that of the whole process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        RESET.write_text("5")
    except OSError:
        pass


def _status(key: str) -> int | None:
    """A line of /proc/self/status, in MB; None elsewhere."""
    if not STATUS.is_file():
        return None
    return next(
        (int(line.split()[1]) // 1024 for line in STATUS.read_text().splitlines() if line.startswith(key)), None
    )


def resident() -> int | None:
    """What is in use now."""
    return torch.cuda.memory_allocated() // 2**20 if torch.cuda.is_available() else _status("VmRSS:")


def peak() -> int:
    """The most that was in use since `reset_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    found = _status("VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 if found is None else found
