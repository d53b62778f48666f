"""The codes of many files in one `.npz` or `.safetensors`: arrays that hold all files end to end.

    codes   (total patches, Q)  int16 (int32 for codebooks beyond 32768), each file's grid flattened, time slowest
    times   (total steps,)      float64, seconds
    grids   (files, 3)          int32, patches along time, rows, columns
    header  JSON {"format": "bridle-codes", "version": 1, "files": [names], ...}; it lies where `array_file` says

All of it is in memory when it is written and when it is read.

Shapes: F files, T H W grid, Q levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bridle.errors import DataError, UsageError
from bridle.formats.array_file import AGAIN, check_version, read_arrays, write_arrays
from bridle.schema import Codes

FORMAT = "bridle-codes"
VERSION = 1
_MOST_CODES = 1 << 31


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
    check_codes(read_arrays(path, (), "codes file")[1], path)  # first: other files of ours have other arrays
    arrays, content = read_arrays(path, ("codes", "times", "grids"), "codes file")
    codes, times, grids, files = arrays["codes"], arrays["times"], arrays["grids"], content.get("files")
    dimensions = codes.ndim, times.ndim, grids.shape[1:], grids.dtype.kind
    if dimensions != (2, 1, (3,), "i") or (grids < 1).any() or not isinstance(files, list):
        raise DataError(f"{path} is damaged: not all of its arrays are of their types", AGAIN)
    patches, steps = [math.prod(grid) for grid in grids.tolist()], grids[:, 0].tolist()  # of any size, in Python
    if (len(files), sum(patches), sum(steps)) != (len(grids), len(codes), len(times)):
        raise DataError(f"{path} is damaged: its grids do not add up to its codes", AGAIN)
    # Files of the first versions do not say them.
    sizes = sizes_of({"codes": _MOST_CODES, "levels": codes.shape[1], **content}, path)
    kept = check_levels(levels, sizes[1], path)
    for file, grid, part, time in zip(
        files, grids.tolist(), np.split(codes, np.cumsum(patches[:-1])), np.split(times, np.cumsum(steps[:-1]))
    ):
        yield as_codes(file, np.moveaxis(part.reshape(*grid, codes.shape[1]), -1, 0), time, sizes, kept, path)


def as_codes(
    file: Any, codes_QTHW: np.ndarray, times: Sequence[float] | np.ndarray, sizes: tuple[int, int], kept: int, path: Any
) -> Codes:
    """In the form that the model gives: levels last, int16 (int32 for codebooks beyond 32768).

    Args:
        sizes: of the codebooks, and how many levels there are.
        kept: of these levels the first N are given.

    Raises:
        DataError: naming `path`, if these are no codes of those sizes, a time a step, and a name.
    """
    (most, levels), times_T = sizes, np.asarray(times)
    fit = codes_QTHW.ndim == 4 and len(codes_QTHW) == levels and times_T.shape == codes_QTHW.shape[1:2]
    kinds = isinstance(file, str) and codes_QTHW.dtype.kind in "iu" and times_T.dtype.kind in "iuf"
    if not (fit and kinds and codes_QTHW.size and np.isfinite(times_T).all()):
        what = f"{codes_QTHW.dtype} {codes_QTHW.shape} with times {times_T.dtype} {times_T.shape}"
        raise DataError(f"{path} is damaged: {what} are not codes of {file!r}", AGAIN)
    if not 0 <= codes_QTHW.min() <= codes_QTHW.max() < most:
        wrong = codes_QTHW.min() if codes_QTHW.min() < 0 else codes_QTHW.max()
        raise DataError(
            f"{path} holds the code {wrong}, but its codebook has {most}",
            "It was written with a different codebook; write it again with bridle tokenize.",
        )
    kind = np.int16 if most <= 1 << 15 else np.int32
    codes_THWQ = np.ascontiguousarray(np.moveaxis(codes_QTHW[:kept], 0, -1)).astype(kind)
    return Codes(file, torch.from_numpy(codes_THWQ), times_T.tolist())


def check_codes(header: Any, path: Path) -> None:
    """Check that a header describes codes of a known version; raises DataError."""
    check_version(header, path, FORMAT, VERSION, "Write one: bridle tokenize FILES --out codes.npz")


def sizes_of(header: Any, path: Any) -> tuple[int, int]:
    """Size of the codebooks, and how many levels there are.

    Raises:
        DataError: it does not say them.
    """
    codes, levels = header.get("codes"), header.get("levels")
    if type(codes) is not int or type(levels) is not int or codes < 1 or levels < 1:
        raise DataError(f"{path} is damaged: it has {levels!r} levels of {codes!r} codes", AGAIN)
    return codes, levels


def check_levels(wanted: int | None, there: int, where: object) -> int:
    """How many levels to keep.

    Raises:
        UsageError: more than there are.
    """
    if wanted is not None and not 1 <= wanted <= there:
        raise UsageError(f"{where} has {there} levels, not {wanted}", f"Use --levels 1 to {there}.")
    return wanted or there
