"""A fine-tuned classifier on disk: the model pair with the tuned encoder, and `head.safetensors` with the layer on top.

Everything that loads a model loads this one, too; who knows of the head also gets classes.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from bridle.checkpoint.files import check_digest, check_finite, read_tensors, write_tensors
from bridle.checkpoint.model_file import read_about, read_model, save_model, snapshot
from bridle.errors import DataError
from bridle.model import Bridle, Classifier
from bridle.outputs import disk_errors
from bridle.storage import hashed

HEAD = "head.safetensors"
_TRAINED_ON = "trained_on"  # beside the weights: there may be millions


@dataclass(frozen=True, slots=True)
class Head:
    """A classifier with the names of its classes, in the order of its scores.

    Attributes:
        multi_label: a clip may have several classes, or none.
        trained_on: hashes of the paths of the clips that it was trained on, see `hash_of`.
    """

    classifier: Classifier
    classes: list[str]
    multi_label: bool
    trained_on: frozenset[int] = frozenset()


def hash_of(path: str) -> int:
    """63 bits of a clip's name."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big") >> 1


def save_classifier(model: Bridle, head: Head, folder: Path, about: dict[str, Any]) -> None:
    """Writes all into a folder, which is made.

    Args:
        model: that was fine-tuned; its tokenizer comes along.
        about: more keys for `model.json`.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    tuned = deepcopy(model)
    for encoder in (tuned.encoder, tuned.average):
        if encoder is not None:
            encoder.load_state_dict(head.classifier.encoder.state_dict())
    weights = {
        name: value.detach().cpu()
        for name, value in head.classifier.state_dict().items()
        if not name.startswith("encoder.")
    }
    weights[_TRAINED_ON] = torch.tensor(sorted(head.trained_on), dtype=torch.int64)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(weights, folder / HEAD)
        header = {"classes": head.classes, "multi_label": head.multi_label, "pool": head.classifier.pool}
        save_model(snapshot(tuned), folder, {**about, "classifier": {**header, "sha256": hashed(folder / HEAD)}})


def read_classifier(folder: Path, device: str = "cpu") -> tuple[Bridle, Head]:
    """The model and its head, in evaluation mode.

    Raises:
        DataError: the folder has no head, or it is damaged.
    """
    model = read_model(folder, device)
    header = read_about(folder).get("classifier")
    if not isinstance(header, dict):
        raise DataError(
            f"{folder} has no classifier: it was never fine-tuned",
            "Make one: bridle eval --protocol finetune --data DATA --out FOLDER",
        )
    try:
        check_digest(folder / HEAD, header["sha256"])
        classifier = Classifier(deepcopy(model.average or model.encoder), len(header["classes"]), header["pool"])
        weights = read_tensors(folder / HEAD)
        check_finite(weights, folder / HEAD)
        trained_on = frozenset(weights.pop(_TRAINED_ON, torch.empty(0)).tolist())
        missing, unknown = classifier.load_state_dict(weights, strict=False)
        if unknown or any(not name.startswith("encoder.") for name in missing):
            raise KeyError("weights are missing or unknown")
        classifier.eval().requires_grad_(False).to(device)
        return model, Head(classifier, list(header["classes"]), bool(header["multi_label"]), trained_on)
    except (OSError, SafetensorError, LookupError, TypeError, RuntimeError) as error:
        raise DataError(f"{folder / HEAD} is not usable: {error}", "Fine-tune again.") from error
