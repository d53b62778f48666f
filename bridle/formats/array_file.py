"""Arrays and a JSON header in one `.npz` or `.safetensors`; nothing in it is executed or unpickled.

The header is an array of UTF-8 bytes called "header" in `.npz`, and the metadata entry "header" in `.safetensors`. Its
"crc32" is of its own JSON without that and of the bytes of the arrays, by name.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bridle.archive import read_npy
from bridle.errors import DataError
from bridle.memory import free_memory

AGAIN = "Write it again, or copy it again."
_HEADER_BYTES, _HEADER_TIMES = 1 << 20, 16  # names pack to a tenth, and something is kept of each file
_DAMAGE = (
    *(OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, SafetensorError),
)


def write_arrays(path: Path, arrays: dict[str, np.ndarray], header: dict[str, Any], suffix: str) -> None:
    """A new file, in the form of that ending (the path may have another): compressed, or fit to be mapped."""
    text = json.dumps({**header, "crc32": _crc(header, arrays)})
    if suffix == ".safetensors":
        path.write_bytes(save(arrays, metadata={"header": text}))  # with the rights that new files have here
        return
    with open(path, "wb") as file:
        coded = np.frombuffer(text.encode(), dtype=np.uint8)
        np.savez_compressed(file, **arrays, header=coded)  # type: ignore[arg-type]


def read_arrays(path: Path, names: Sequence[str], what: str, suffix: str = "") -> tuple[dict[str, np.ndarray], Any]:
    """Arrays of those names, and the header.

    Args:
        names: all that there are; none: the header alone, which is then not checked.
        what: how messages call such a file.

    Raises:
        DataError: it cannot be read, or is no such file.
        FileNotFoundError: it is not there.
    """
    try:
        arrays, text = (_read_npz if (suffix or path.suffix) == ".npz" else _read_safetensors)(path, names)
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("its header is not an object")
        wanted = header.pop("crc32", None)  # there is none in files of the first versions
        if names and wanted not in (None, _crc(header, arrays)):
            raise ValueError("its checksum differs")
        return arrays, header
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path} is not a {what}, or is damaged: {error}", AGAIN) from error


def _crc(header: Any, arrays: dict[str, np.ndarray]) -> int:
    """Of the header and all arrays, by name."""
    crc = zlib.crc32(json.dumps(header).encode())
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).data, crc)
    return crc


def refuse_large(unpacked_bytes: int) -> None:
    """Check that the unpacked size fits into memory; raises ValueError. A small file may unpack to any size."""
    if unpacked_bytes > (free := free_memory(torch.device("cpu"))):
        raise ValueError(f"it takes {unpacked_bytes / 1e9:.1f} GB unpacked, and {free / 1e9:.1f} GB of memory are free")


def check_version(header: Any, path: Path, format: str, version: int, hint: str) -> None:
    """Check format and version of a header; raises DataError."""
    if not isinstance(header, dict) or header.get("format") != format:
        found = header.get("format") if isinstance(header, dict) else None
        raise DataError(f"{path} is not a {format} file" + (f" but a {found} file" if found else ""), hint)
    if header.get("version") != version:
        raise DataError(f"{path} has version {header.get('version')}, this BRIDLE reads {version}", "Update BRIDLE.")


def _read_npz(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], str]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as content:
        if (header_bytes := content.getinfo("header.npy").file_size) > _HEADER_BYTES + _HEADER_TIMES * size:
            raise ValueError(f"its header has {header_bytes / 1e6:.0f} MB, the file {size / 1e6:.1f} MB")
        refuse_large(sum(content.getinfo(f"{name}.npy").file_size for name in names))

        def array(name: str) -> np.ndarray:
            with content.open(f"{name}.npy") as file:
                return read_npy(file, content.getinfo(f"{name}.npy").file_size)

        return {name: array(name) for name in names}, array("header").tobytes().decode()


def _read_safetensors(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], str]:
    with safe_open(path, framework="np") as content:
        return {name: content.get_tensor(name) for name in names}, content.metadata()["header"]
