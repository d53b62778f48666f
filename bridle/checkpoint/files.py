"""Tensors and JSON on disk, each with a hash: never pickled, and a full disk is the user's error and not ours."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridle.errors import DataError
from bridle.storage import hashed, opened, read_text

_OWN = "sha256_of_the_rest"


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes all tensors into one file.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    path.unlink(missing_ok=True)  # a link there stays what it was to whoever it belongs to
    path.touch()
    mode = path.stat().st_mode  # safetensors leaves files that nobody else can read
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a regular file: of a pipe the library would wait for the other end.

    Raises:
        OSError: it cannot be read. SafetensorError: it is damaged.
    """
    with opened(path):
        return load_file(path)


def check_digest(path: Path, digest: str) -> None:
    """Check the hash of a file; raises DataError if it was changed."""
    if hashed(path) != digest:
        raise DataError(f"{path} was changed: its hash differs", "Use another checkpoint of the run.")


def check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Check that all tensors are finite; raises DataError naming the first that is not."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DataError(f"{path}: {name} is not finite", "Use another checkpoint of the run, or train again.")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes an object together with its own hash."""
    path.write_text(json.dumps({**content, _OWN: _hash(content)}, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote; older files have no hash.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read, is no JSON, or is not what was written.
    """
    content = json.loads(read_text(path))
    if isinstance(content, dict) and content.pop(_OWN, None) not in (None, _hash(content)):
        raise ValueError(f"{path.name} was changed: its hash differs")
    return content


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
