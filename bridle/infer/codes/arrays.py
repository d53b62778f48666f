"""The codes of many files in one `.npz` or `.safetensors`: arrays that hold all files end to end.

    codes   (total patches, Q)  int16 (int32 for codebooks beyond 32768), each file's grid flattened, time slowest
    times   (total steps,)      float64, seconds
    grids   (files, 3)          int32, patches along time, rows, columns
    header  JSON {"format": "bridle-codes", "version": 1, "files": [names], ...}; it lies where `array_file` says

All of it is in memory when it is written and when it is read.

Shapes: F files, T H W grid, Q levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bridle.errors import DataError, UsageError
from bridle.infer.array_file import check_version, read_arrays, write_arrays
from bridle.schema import Codes

FORMAT = "bridle-codes"
VERSION = 1


def write(path: Path, codes: Iterable[Codes], header: dict[str, Any], suffix: str) -> None:
    """Compressed (`.npz`), or fit to be mapped into memory (`.safetensors`)."""
    write_arrays(path, *_arrays(codes, header), suffix)


def _arrays(codes: Iterable[Codes], header: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
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
    return arrays, {"format": FORMAT, "version": VERSION, **header, "files": files}


def read(path: Path, levels: int | None = None) -> Iterator[Codes]:
    """One after the other; nothing in the file is executed or unpickled.

    Raises:
        DataError: not a codes file, of a later version, or damaged.
    """
    arrays, content = read_arrays(path, ("codes", "times", "grids"), "codes file")
    check_codes(content, path)
    codes, times, grids, files = arrays["codes"], arrays["times"], arrays["grids"], content.get("files", [])
    named = isinstance(files, list) and all(isinstance(file, str) for file in files)
    kinds = (codes.dtype.kind, grids.dtype.kind, times.dtype.kind) == ("i", "i", "f")
    most = content.get("codes")  # files of the first versions do not say it
    if not (named and kinds and (most is None or type(most) is int)):
        raise DataError(f"{path} is damaged: not all of its arrays are of their types")
    if codes.ndim != 2 or grids.ndim != 2 or grids.shape[1] != 3 or (grids < 1).any():
        raise DataError(f"{path} is damaged: its grids do not add up to its codes")
    patches, steps = grids.prod(1, dtype=np.int64), grids[:, 0]
    if (len(files), patches.sum(), steps.sum()) != (len(grids), len(codes), len(times)):
        raise DataError(f"{path} is damaged: its grids do not add up to its codes")
    check_range(codes, most, path)
    kept = check_levels(levels, codes.shape[1], path)
    for file, grid, part, time in zip(
        files, grids.tolist(), np.split(codes[:, :kept], patches.cumsum()[:-1]), np.split(times, steps.cumsum()[:-1])
    ):
        yield Codes(file, torch.from_numpy(part.reshape(*grid, kept)), time.tolist())


def as_codes(file: str, codes_QTHW: np.ndarray, times: Sequence[float], most: int) -> Codes:
    """In the form that the model gives: levels last, int16 (int32 for codebooks beyond 32768)."""
    codes_THWQ = np.ascontiguousarray(np.moveaxis(codes_QTHW, 0, -1)).astype(np.int16 if most <= 1 << 15 else np.int32)
    return Codes(file, torch.from_numpy(codes_THWQ), list(times))


def check_codes(header: Any, path: Path) -> None:
    """Raises DataError for what is no description of codes, or one of a later version."""
    check_version(header, path, FORMAT, VERSION, "Write one: bridle tokenize FILES --out codes.npz")


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
