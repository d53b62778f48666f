"""What a run needs to continue, apart from the model: optimizer moments as tensors, counters as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from bridle import distributed
from bridle.checkpoint.files import check_digest, read_json, read_tensors, write_json, write_tensors
from bridle.errors import DataError
from bridle.storage import hashed

TENSORS, COUNTERS = "training.safetensors", "training.json"


Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Stream(BaseModel):
    epoch: Count
    position: Count
    samples: Count


class _Counters(BaseModel):
    """What `training.json` must hold."""

    step: Count
    phase_index: Count
    phase_step: Count
    phase_seconds: Seconds
    seconds: Seconds
    clips: Count
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
    counters["sha256"] = {TENSORS: hashed(folder / TENSORS)}
    write_json(folder / COUNTERS, counters)


def load_training(folder: Path) -> dict[str, Any]:
    """The reverse of `save_training`.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        counters = read_json(folder / COUNTERS)
        _Counters.model_validate(counters)
        if "sha256" in counters:  # older checkpoints have none
            check_digest(folder / TENSORS, counters["sha256"][TENSORS])
        return {**counters, "optimizer": read_tensors(folder / TENSORS)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
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
