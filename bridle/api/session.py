"""The device for the functions of the interface, and the folder of runs."""

from __future__ import annotations

import re
from pathlib import Path

from bridle.errors import EnvironmentFault, UsageError

RUNS = Path("runs")


def pick_device(name: str) -> str:
    """Resolve a device name: `auto` is `cuda` if available, else `cpu`.

    Raises:
        UsageError: an unknown name.
        EnvironmentFault: no such CUDA device.
    """
    import torch

    from bridle import distributed

    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"unknown device {name!r}", "Choose from auto, cpu, cuda and cuda:N.")
    kind, _, one = name.partition(":")
    number = int(one) if one else distributed.local_rank()
    available = torch.cuda.is_available()
    if kind == "cuda" and not available:
        raise EnvironmentFault("--device cuda: PyTorch sees no CUDA device here.", "Use --device cpu or auto.")
    if not available or name == "cpu":
        return "cpu"
    if number >= (there := torch.cuda.device_count()):
        what = f"no device {name}" if one else f"{number + 1} processes"
        raise EnvironmentFault(
            f"{what}, but {there} CUDA devices on this machine.", "Use fewer --devices, or a lower device number."
        )
    return f"cuda:{number}"
