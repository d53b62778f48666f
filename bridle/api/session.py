"""The device and the model for the functions of the interface."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bridle.errors import EnvironmentFault, UsageError
from bridle.storage import Remote, locate

if TYPE_CHECKING:
    from bridle.model import Bridle

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


def open_model(checkpoint: str | Path | None, device: str) -> Bridle:
    """The network of a checkpoint; `None` takes the newest run.

    Raises:
        UsageError: it is in object storage. DataError: there is no usable model.
    """
    from bridle.checkpoint import load_model, newest_run

    if checkpoint is not None and isinstance(locate(checkpoint), Remote):
        raise UsageError(
            f"{checkpoint}is remote; a checkpoint must be on a local disk", "Copy it to this machine first."
        )

    return load_model(newest_run(RUNS) if checkpoint is None else Path(checkpoint), device=pick_device(device))
