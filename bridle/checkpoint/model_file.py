"""A model on disk: `model.safetensors` (weights) beside `model.json` (recipe, corpus statistics, format version, hash).

Exports, checkpoints and the loader all use this one pair; nothing is ever unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bridle import distributed
from bridle.checkpoint.files import check_digest, check_finite, read_json, read_tensors, write_json, write_tensors
from bridle.config.sections import Config
from bridle.errors import DataError
from bridle.model import Bridle
from bridle.storage import hashed

WEIGHTS, ABOUT = "model.safetensors", "model.json"
FORMAT, VERSION = "bridle-model", 2
# Making a weight takes some temporary tensors of its size, each with an overhead.
_MADE_TIMES, _TENSOR_BYTES, _SPARE_BYTES = 4, 1 << 14, 32 << 20


class NewerVersion(DataError):
    """Nothing is wrong with the file, but for who reads it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model as it was at one moment: training may continue while this is written."""

    weights: dict[str, Tensor]
    about: dict[str, Any]


def snapshot(model: Bridle) -> Snapshot:
    """Copies of all weights in the CPU's memory. Where they are dealt to several ranks, each must call it."""
    weights = {
        name: distributed.whole(value.detach()).to("cpu", copy=True) for name, value in model.state_dict().items()
    }
    about = {"config": model.config.model_dump(mode="json"), "statistics": model.statistics}
    return Snapshot(weights, about)


def save_model(model: Snapshot, folder: Path, about: dict[str, Any] | None = None) -> None:
    """Writes the pair into an existing folder; `about` adds keys to `model.json`."""
    write_tensors(model.weights, folder / WEIGHTS)
    digest = {"sha256": {WEIGHTS: hashed(folder / WEIGHTS)}}
    content = {"format": FORMAT, "version": VERSION, **digest, **model.about, **(about or {})}
    write_json(folder / ABOUT, content)


class _Undrawn(TorchFunctionMode):
    """Weights are made without their initial random numbers: all are about to be read.

    Args:
        weights: that are read. A recipe may describe a model of any size: no more is made than these may need.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self._left = _SPARE_BYTES + _MADE_TIMES * sum(_TENSOR_BYTES + weight.nbytes for weight in weights.values())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = args[0] if func is Tensor.uniform_ else func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not (args and made is args[0]):
            self._left -= _TENSOR_BYTES + made.nbytes
            if self._left < 0:
                raise ValueError("its configuration describes a larger model than its weights")
        return made


def read_model(folder: Path, device: str = "cpu") -> Bridle:
    """Reads the pair, in evaluation mode.

    Raises:
        DataError: a file is missing, damaged, or of a newer version.
    """
    about = read_about(folder)
    try:
        config = Config.model_validate(about["config"])
        if about["version"] > 1:
            check_digest(folder / WEIGHTS, about["sha256"][WEIGHTS])
        weights = read_tensors(folder / WEIGHTS)
        if about["version"] == 1:  # counted what nobody reads
            weights = {name: value for name, value in weights.items() if not name.endswith(".num_batches_tracked")}
        check_finite(weights, folder / WEIGHTS)
        with _Undrawn(weights):
            model = Bridle(config, about["statistics"])
        if others := set(model.state_dict()) ^ set(weights):
            raise KeyError(f"{len(others)} weights are missing or unknown")
        model.load_state_dict(weights)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        lines = f"{type(error).__name__}: {error}".splitlines()
        raise DataError(
            f"{folder} is not a usable model: {lines[0]}" + (f" (and {len(lines) - 1} more)" if lines[1:] else ""),
            "Use another checkpoint of the run, or train again.",
        ) from error
    model.source = str(folder)
    return model.eval().to(device)


def read_about(folder: Path) -> dict[str, Any]:
    """`model.json`, checked.

    Raises:
        DataError: it is missing, damaged, or of a newer version.
    """
    path = folder / ABOUT
    try:
        about = read_json(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}", "Use another checkpoint of the run.") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a BRIDLE model")
    version = about.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise NewerVersion(f"{path} has version {version}, this BRIDLE reads up to {VERSION}", "Update BRIDLE.")
    return about
