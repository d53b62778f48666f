"""Memory of this process and its machine: what was taken, what is left, whether more was refused."""

from __future__ import annotations

import math
import resource
import sys
from pathlib import Path

import torch

from bridle import distributed


def memory_mb(device: torch.device) -> float:
    """What this process has taken at most so far: of the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # macOS says bytes, Linux kilobytes


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that a device, or a limit on the CPU's memory, gave no more."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_memory(device: torch.device) -> float:
    """Bytes that each process of this machine may still take: of the GPU, or (Linux) of the machine or its container
    without others being moved out; infinite where nobody says."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = math.inf
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * float(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
        most, now = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        free = min(free, float(most) - float(now)) if most != "max" else free
    except (OSError, StopIteration, ValueError):
        pass
    return free / distributed.local_world()
