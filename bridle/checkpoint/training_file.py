"""What a run needs to go on, apart from the model: optimizer moments as tensors, counters as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from bridle import distributed
from bridle.checkpoint.tensor_file import check_digest, digest_of, write_tensors
from bridle.errors import DataError

TENSORS, COUNTERS = "training.safetensors", "training.json"


class _Stream(BaseModel):
    epoch: int
    position: int
    samples: int


class _Counters(BaseModel):
    """What `training.json` must hold."""

    step: int
    phase_index: int
    phase_step: int
    phase_seconds: float
    seconds: float
    clips: int
    last: dict[str, Any]
    stream: _Stream


def mistakes(error: ValidationError) -> str:
    """`stream.samples: Field required; step: Input should be a valid integer`."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])


def save_training(training: dict[str, Any], folder: Path) -> None:
    """Args:
    training: JSON values, but for "optimizer", the result of `optimizer_state`.
    """
    write_tensors(training["optimizer"], folder / TENSORS)
    counters = {key: value for key, value in training.items() if key != "optimizer"}
    counters["sha256"] = {TENSORS: digest_of(folder / TENSORS)}
    (folder / COUNTERS).write_text(json.dumps(counters, indent=1) + "\n")


def load_training(folder: Path) -> dict[str, Any]:
    """The reverse of `save_training`.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        counters = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
        _Counters.model_validate(counters)
        if "sha256" in counters:  # older checkpoints have none
            check_digest(folder / TENSORS, counters["sha256"][TENSORS])
        return {**counters, "optimizer": load_file(folder / TENSORS)}
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        why = f"{COUNTERS}: {mistakes(error)}" if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{folder} cannot be resumed from: {why}", "Use another checkpoint of the run.") from error


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """The moments of every parameter, named `index.moment`. If they are dealt to several ranks, each must call it."""
    states = optimizer.state_dict()["state"]
    return {
        f"{index}.{moment}": distributed.whole(torch.as_tensor(value)).to("cpu", copy=True)
        for index, state in states.items()
        for moment, value in state.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimizer_state`; learning rates are the schedule's business."""
    states: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, moment = name.split(".", 1)
        dealt = distributed.dealt_like(tensor, parameters[int(index)]) if tensor.dim() else tensor
        states.setdefault(int(index), {})[moment] = dealt
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
