"""The codes of many files in one `.npz` or `.safetensors`: arrays that hold all files end to end.

    codes   (total patches, Q)  int16 (int32 for codebooks beyond 32768), each file's grid flattened, time slowest
    times   (total steps,)      float64, seconds
    grids   (files, 3)          int32, patches along time, rows, columns
    header  JSON {"format": "bridle-codes", "version": 1, "files": [names], ...}; in `.npz` an array of UTF-8 bytes,
            in `.safetensors` the metadata entry "header"

All of it is in memory when it is written and when it is read.

Shapes: F files, T H W grid, Q levels.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bridle.errors import DataError, UsageError
from bridle.schema import Codes

FORMAT = "bridle-codes"
VERSION = 1


def write_npz(path: Path, codes: Iterable[Codes], header: dict[str, Any]) -> None:
    """Compressed."""
    arrays, text = _arrays(codes, header)
    with open(path, "wb") as file:
        np.savez_compressed(
            file,
            codes=arrays["codes"],
            times=arrays["times"],
            grids=arrays["grids"],
            header=np.frombuffer(text.encode(), dtype=np.uint8),
        )


def write_safetensors(path: Path, codes: Iterable[Codes], header: dict[str, Any]) -> None:
    """Not compressed: can be mapped into memory."""
    arrays, text = _arrays(codes, header)
    path.write_bytes(save(arrays, metadata={"header": text}))


def _arrays(codes: Iterable[Codes], header: dict[str, Any]) -> tuple[dict[str, np.ndarray], str]:
    rows, times, grids, files = list[np.ndarray](), list[np.ndarray](), list[tuple[int, int, int]](), list[str]()
    for item in codes:
        rows.append(item.codes_THWQ.flatten(0, 2).numpy())
        times.append(np.asarray(item.times_T, dtype=np.float64))
        grids.append(item.grid)
        files.append(item.file)
    arrays = {
        "codes": np.concatenate(rows),
        "times": np.concatenate(times),
        "grids": np.array(grids, dtype=np.int32),
    }
    return arrays, json.dumps({"format": FORMAT, "version": VERSION, **header, "files": files})


def read(path: Path, levels: int | None = None) -> Iterator[Codes]:
    """One after the other; nothing in the file is executed or unpickled.

    Raises:
        DataError: not a codes file, of a later version, or damaged.
    """
    try:
        arrays, header = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
        content = json.loads(header)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(
            f"{path} is not a codes file, or is damaged: {error}", "Write it again, or copy it again."
        ) from error
    check_version(content, path)
    codes, times, grids, files = arrays["codes"], arrays["times"], arrays["grids"], content.get("files", [])
    if codes.ndim != 2 or grids.ndim != 2 or grids.shape[1] != 3:
        raise DataError(f"{path} is damaged: its grids do not add up to its codes")
    patches, steps = grids.prod(1, dtype=np.int64), grids[:, 0]
    if (len(files), patches.sum(), steps.sum()) != (len(grids), len(codes), len(times)):
        raise DataError(f"{path} is damaged: its grids do not add up to its codes")
    check_range(codes, content.get("codes"), path)
    kept = check_levels(levels, codes.shape[1], path)
    for file, grid, part, time in zip(
        files, grids.tolist(), np.split(codes[:, :kept], patches.cumsum()[:-1]), np.split(times, steps.cumsum()[:-1])
    ):
        yield Codes(file, torch.from_numpy(part.reshape(*grid, kept)), time.tolist())


def as_codes(file: str, codes_QTHW: np.ndarray, times: Sequence[float], most: int) -> Codes:
    """In the form that the model gives: levels last, int16 (int32 for codebooks beyond 32768)."""
    codes_THWQ = np.ascontiguousarray(np.moveaxis(codes_QTHW, 0, -1)).astype(np.int16 if most <= 1 << 15 else np.int32)
    return Codes(file, torch.from_numpy(codes_THWQ), list(times))


def check_version(header: Any, path: Path) -> None:
    """Raises DataError for what is no description of codes, or one of a later version."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{path} is not a codes file", "Write one: bridle tokenize FILES --out codes.npz")
    if header.get("version") != VERSION:
        raise DataError(f"{path} has version {header.get('version')}, this BRIDLE reads {VERSION}", "Update BRIDLE.")


def check_range(codes: np.ndarray, most: Any, path: object) -> None:
    """Raises DataError for codes that a codebook of `most` has not; None: nobody says how many it has."""
    if codes.size and (codes.min() < 0 or (type(most) is int and codes.max() >= most)):
        wrong = codes.min() if codes.min() < 0 else codes.max()
        raise DataError(
            f"{path} holds the code {wrong}, and its codebook has {most}",
            "Who wrote it has another codebook in mind; write it again with bridle tokenize.",
        )


def check_levels(wanted: int | None, there: int, where: object) -> int:
    """How many levels to keep.

    Raises:
        UsageError: more than there are.
    """
    if wanted is not None and not 1 <= wanted <= there:
        raise UsageError(f"{where} has {there} levels, not {wanted}", f"--levels 1 to {there}")
    return wanted or there


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in ("codes", "times", "grids")}, content["header"].tobytes().decode()


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with safe_open(path, framework="np") as content:
        return {name: content.get_tensor(name) for name in ("codes", "times", "grids")}, content.metadata()["header"]
