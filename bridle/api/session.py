"""What every function of the interface needs: the device, the model, somewhere to report to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridle.errors import EnvironmentFault

if TYPE_CHECKING:
    from bridle.model import Bridle

OnEvent = Callable[..., None]  # on_event(kind, **fields): progress
RUNS = Path("runs")


def pick_device(name: str) -> str:
    """`auto` -> `cuda` if there is one, else `cpu`.

    Raises:
        EnvironmentFault: `cuda` was asked for and there is none.
    """
    import torch

    from bridle import distributed

    number = distributed.local_rank()
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise EnvironmentFault("--device cuda: PyTorch sees no CUDA device here.", "Use --device cpu or auto.")
    if not available or name == "cpu":
        return "cpu"
    if number >= (there := torch.cuda.device_count()):
        raise EnvironmentFault(f"{number + 1} processes, and {there} CUDA devices on this machine.", "Fewer --devices.")
    return f"cuda:{number}"


def open_model(checkpoint: str | Path | None, device: str) -> Bridle:
    """The network of a checkpoint; `None` takes the newest run."""
    from bridle.checkpoint import load_model, newest_run

    return load_model(Path(checkpoint) if checkpoint else newest_run(RUNS), device=pick_device(device))


def silent(kind: str, **fields: Any) -> None:
    """Progress that nobody watches."""
