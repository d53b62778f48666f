"""What a run needs to go on, apart from the model: optimizer moments as tensors, counters as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from bridle.checkpoint.tensor_file import write_tensors
from bridle.errors import DataError

TENSORS, COUNTERS = "training.safetensors", "training.json"
_COUNTERS = {"step", "phase_index", "phase_step", "phase_seconds", "seconds", "clips", "last", "stream"}


def save_training(training: dict[str, Any], folder: Path) -> None:
    """Args:
    training: JSON values, but for "optimizer", the result of `optimizer_state`.
    """
    write_tensors(training["optimizer"], folder / TENSORS)
    counters = {key: value for key, value in training.items() if key != "optimizer"}
    (folder / COUNTERS).write_text(json.dumps(counters, indent=1) + "\n")


def load_training(folder: Path) -> dict[str, Any]:
    """The reverse of `save_training`.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        counters = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
        if missing := _COUNTERS - set(counters):
            raise ValueError(f"{COUNTERS} lacks {', '.join(sorted(missing))}")
        return {**counters, "optimizer": load_file(folder / TENSORS)}
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be resumed from: {error}", "Use another checkpoint of the run.") from error


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """The moments of every parameter, named `index.moment`."""
    states = optimizer.state_dict()["state"]
    return {
        f"{index}.{moment}": torch.as_tensor(value).cpu()
        for index, state in states.items()
        for moment, value in state.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimizer_state`; learning rates are the schedule's business."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, moment = name.split(".", 1)
        states.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
