"""What many functions of the interface need: the device, and where runs lie."""

from __future__ import annotations

import re
from pathlib import Path

from bridle.errors import EnvironmentFault, UsageError

RUNS = Path("runs")


def pick_device(name: str) -> str:
    """`auto` -> `cuda` if there is one, else `cpu`.

    Raises:
        UsageError: none of auto, cpu, cuda and cuda:N.
        EnvironmentFault: `cuda` was asked for and there is none.
    """
    import torch

    from bridle import distributed

    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"device {name!r} is not known", "choose from auto, cpu, cuda and cuda:N")
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
            f"{what}, and {there} CUDA devices on this machine.", "Fewer --devices, or a lower number."
        )
    return f"cuda:{number}"
