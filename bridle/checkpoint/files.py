"""Named tensors on disk, as safetensors: never pickled, and a full disk is the user's error and not ours."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bridle.errors import DataError, EnvironmentFault


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes all tensors into one file.

    Raises:
        EnvironmentFault: the disk is full or cannot be written.
    """
    try:
        path.touch()
        mode = path.stat().st_mode  # safetensors leaves files that nobody else can read
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        path.chmod(mode)
    except (OSError, SafetensorError) as error:
        raise EnvironmentFault(f"{path} cannot be written: {error}", "Free some space and try again.") from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, digest: str) -> None:
    """Raises:
    DataError: the file is not what was written.
    """
    if digest_of(path) != digest:
        raise DataError(f"{path} is not what was written: its hash differs", "Use another checkpoint of the run.")
