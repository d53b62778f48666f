"""Arrays and a JSON header in one `.npz` or `.safetensors`, all or nothing; nothing in it is executed or unpickled.

The header is an array of UTF-8 bytes called "header" in `.npz`, and the metadata entry "header" in `.safetensors`.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bridle.errors import DataError, EnvironmentFault, UsageError

SUFFIXES = (".npz", ".safetensors")


def check_output(path: Path, suffixes: Sequence[str] = SUFFIXES, *, overwrite: bool = False) -> None:
    """To be called before the work begins.

    Raises:
        UsageError: an unknown suffix, or something is there already.
    """
    if path.suffix not in suffixes:
        raise UsageError(f"{path} does not end in {', '.join(suffixes)}", "give --out a name with one of these endings")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} exists", "choose another --out, or add --overwrite")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary name, then renames: a reader never sees half a file.

    Raises:
        EnvironmentFault: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise EnvironmentFault(
            f"{path} cannot be written: {error}", "Free some space, or name another --out."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    """Raises EnvironmentFault: see `write_whole`."""
    text = json.dumps(header)

    def write(temporary: Path) -> None:
        if path.suffix == ".safetensors":
            save_file(arrays, temporary, metadata={"header": text})
            return
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays, header=np.frombuffer(text.encode(), dtype=np.uint8))  # type: ignore[arg-type]

    write_whole(path, write)


def read_arrays(
    path: Path, format: str, version: int, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and header.

    Raises:
        DataError: the file is not there, is none of that format, is of a later version, or damaged.
    """
    try:
        arrays, text = _read_npz(path, names) if path.suffix == ".npz" else _read_safetensors(path, names)
        header = json.loads(text)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"{path} is not a {format} file, or is damaged: {error}") from error
    check_header(path, header, format, version)
    return arrays, header


def check_header(path: Path, header: Any, format: str, version: int) -> None:
    """Raises DataError unless it says that it is of this format and version."""
    if not isinstance(header, dict) or header.get("format") != format:
        raise DataError(f"{path} is not a {format} file")
    if header.get("version") != version:
        raise DataError(f"{path} has version {header.get('version')}, this BRIDLE reads {version}", "update BRIDLE")


def _read_npz(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], str]:
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in names}, content["header"].tobytes().decode()


def _read_safetensors(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], str]:
    with safe_open(path, framework="np") as content:
        return {name: content.get_tensor(name) for name in names}, content.metadata()["header"]
