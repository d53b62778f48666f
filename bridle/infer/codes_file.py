"""The codes file: the codes of many files in one `.npz` or `.safetensors`, readable without BRIDLE.

Three arrays hold all files end to end, a JSON header says where each begins:

    codes   (total patches, Q)  int16 (int32 for codebooks beyond 32768), each file's grid flattened, time slowest
    times   (total steps,)      float64, seconds
    grids   (files, 3)          int32, patches along time, rows, columns
    header  JSON {"format": "bridle-codes", "version": 1, "files": [names], ...}; in `.npz` an array of UTF-8 bytes,
            in `.safetensors` the metadata entry "header"

Shapes: F files, T H W grid, Q levels.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.schema import Codes

FORMAT = "bridle-codes"
VERSION = 1
SUFFIXES = (".npz", ".safetensors")


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """To be called before the work begins.

    Raises:
        UsageError: an unknown suffix, a folder that does not exist, or a file that does.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is neither .npz nor .safetensors", "give --out a name with one of these endings")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} exists", "choose another --out, or add --overwrite")


def write_codes(path: Path, codes: Iterable[Codes], *, source: str = "", overwrite: bool = False) -> dict[str, Any]:
    """Write all codes under a temporary name, then rename: a reader never sees half a file.

    Args:
        codes: may be a generator; the output is checked before it starts.
        source: the checkpoint that made them, for the header.

    Returns:
        `{out, files, levels, patches, bytes}`.

    Raises:
        UsageError: as `check_output`.
        DataError: no codes, or files of unequal numbers of levels.
        EnvironmentFault: the disk is full or the folder cannot be written.
    """
    check_output(path, overwrite=overwrite)
    codes = list(codes)
    if not codes:
        raise DataError(f"no codes to write to {path}")
    levels = {item.levels for item in codes}
    if len(levels) > 1:
        raise DataError("codes of different numbers of levels do not fit one file")
    arrays = {
        "codes": np.concatenate([item.codes_THWQ.flatten(0, 2).numpy() for item in codes]),
        "times": np.concatenate([np.asarray(item.times_T, dtype=np.float64) for item in codes]),
        "grids": np.array([item.grid for item in codes], dtype=np.int32),
    }
    files = [item.file for item in codes]
    header = json.dumps({"format": FORMAT, "version": VERSION, "checkpoint": source, "files": files})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            with open(temporary, "wb") as file:
                np.savez_compressed(
                    file,
                    codes=arrays["codes"],
                    times=arrays["times"],
                    grids=arrays["grids"],
                    header=np.frombuffer(header.encode(), dtype=np.uint8),
                )
        else:
            temporary.write_bytes(save(arrays, metadata={"header": header}))
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise EnvironmentFault(
            f"{path} cannot be written: {error}", "Free some space, or name another --out."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return {
        "out": str(path),
        "files": len(files),
        "levels": levels.pop(),
        "patches": len(arrays["codes"]),
        "bytes": path.stat().st_size,
    }


def read_codes(path: Path) -> list[Codes]:
    """Read a codes file back; nothing in it is executed or unpickled.

    Raises:
        DataError: not a codes file, of a later version, or damaged.
    """
    try:
        arrays, header = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
        content = json.loads(header)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "Write one: bridle tokenize FILES --out codes.npz") from None
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"{path} is not a codes file, or is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not a codes file")
    if content.get("version") != VERSION:
        raise DataError(f"{path} has version {content.get('version')}, this BRIDLE reads {VERSION}", "update BRIDLE")
    codes, times, grids, files = arrays["codes"], arrays["times"], arrays["grids"], content.get("files", [])
    patches, steps = grids.prod(1, dtype=np.int64), grids[:, 0]
    if (len(files), patches.sum(), steps.sum()) != (len(grids), len(codes), len(times)) or codes.ndim != 2:
        raise DataError(f"{path} is damaged: its grids do not add up to its codes")
    return [
        Codes(file, torch.from_numpy(part.reshape(*grid, -1)), time.tolist())
        for file, grid, part, time in zip(
            files, grids.tolist(), np.split(codes, patches.cumsum()[:-1]), np.split(times, steps.cumsum()[:-1])
        )
    ]


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in ("codes", "times", "grids")}, content["header"].tobytes().decode()


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with safe_open(path, framework="np") as content:
        return {name: content.get_tensor(name) for name in ("codes", "times", "grids")}, content.metadata()["header"]
