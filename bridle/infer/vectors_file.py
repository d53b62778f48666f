"""The vectors file: the embeddings of many files in one `.npz`, `.safetensors` or `.parquet`, readable without BRIDLE.

Arrays hold the vectors of all files end to end, a JSON header says whose they are:

    vectors (rows, D)   float32 or float16
    times   (rows,)     float64, seconds from the file's begin
    coords  (rows, 3)   int32, (time, row, column) in the file's grid; zero where a vector stands for a whole file
    counts  (files,)    int64, how many rows each file has
    header  JSON {"format": "bridle-vectors", "version": 1, "files": [names], "model": hash, "checkpoint": name,
            "modality", "per": "file" | "step" | "patch", "pool", "inputs": [where the files were found]}; it lies where
            `array_file` says

A `.parquet` has a row for each vector instead, with columns file, time, step, row, column and vector; its schema's
metadata hold the header, without the files, as "bridle".

Shapes: F files, R rows, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridle.errors import DataError, EnvironmentFault
from bridle.infer.array_file import check_header, check_output, read_arrays, write_arrays, write_whole
from bridle.infer.embed import Embedded

FORMAT, VERSION = "bridle-vectors", 1
SUFFIXES = (".npz", ".safetensors", ".parquet")
_ARRAYS = ("vectors", "times", "coords", "counts")
_ROWS = 10_000  # of a row group


@dataclass(slots=True)
class VectorsFile:
    """What such a file holds.

    Attributes:
        files: names, F of them.
        vectors_RD: float32 or float16, those of a file one after the other.
        file_R: which file each row is of.
        about: the rest of the header.
    """

    files: list[str]
    vectors_RD: np.ndarray
    times_R: np.ndarray
    coords_R3: np.ndarray
    file_R: np.ndarray
    about: dict[str, Any]


def check_vectors_output(path: Path, *, overwrite: bool = False) -> None:
    """To be called before the work begins.

    Raises:
        UsageError: see `array_file.check_output`.
        EnvironmentFault: Parquet's library is missing.
    """
    check_output(path, SUFFIXES, overwrite=overwrite)
    if path.suffix == ".parquet":
        parquet_library()


def write_vectors(
    path: Path, embedded: Iterable[Embedded], about: dict[str, Any], *, half: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Write the vectors of all files, all or nothing.

    Args:
        embedded: may be a generator; the output is checked before it starts.
        about: model, checkpoint, modality, per, pool.
        half: as float16.

    Returns:
        `{out, files, vectors, width, bytes}`.

    Raises:
        UsageError: as `check_vectors_output`.
        DataError: no vectors.
        EnvironmentFault: the disk is full, the folder cannot be written, or Parquet's library is missing.
    """
    check_vectors_output(path, overwrite=overwrite)
    files, counts, times = list[str](), list[int](), list[float]()
    vectors, coords = list[np.ndarray](), list[np.ndarray]()
    for one in embedded:
        files.append(one.file)
        counts.append(len(one.vectors_RD))
        vectors.append(one.vectors_RD.numpy().astype(np.float16 if half else np.float32))
        times += one.times_R
        coords.append(one.coords_R3.numpy().astype(np.int32))
    if not files:
        raise DataError(f"no vectors to write to {path}")
    arrays = {
        "vectors": np.concatenate(vectors),
        "times": np.array(times, dtype=np.float64),
        "coords": np.concatenate(coords),
        "counts": np.array(counts, dtype=np.int64),
    }
    header = {"format": FORMAT, "version": VERSION, **about}
    if path.suffix == ".parquet":
        write_whole(path, lambda temporary: _write_parquet(temporary, files, arrays, header))
    else:
        write_arrays(path, arrays, {**header, "files": files})
    rows, width = arrays["vectors"].shape
    return {"out": str(path), "files": len(files), "vectors": rows, "width": width, "bytes": path.stat().st_size}


def read_vectors(path: Path) -> VectorsFile:
    """Read a vectors file back; nothing in it is executed or unpickled.

    Raises:
        DataError: not a vectors file, of a later version, or damaged.
        EnvironmentFault: Parquet's library is missing.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist", "Write one: bridle embed FILES --out vectors.npz")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    arrays, about = read_arrays(path, FORMAT, VERSION, _ARRAYS)
    files = about.pop("files", None)
    counts_F, rows = arrays["counts"], len(arrays["vectors"])
    fits = isinstance(files, list) and counts_F.shape == (len(files),) and (counts_F >= 0).all()
    if not fits or counts_F.sum() != rows or arrays["vectors"].ndim != 2 or arrays["vectors"].dtype.kind != "f":
        raise DataError(f"{path} is damaged: its counts do not add up to its vectors")
    if arrays["times"].shape != (rows,) or arrays["coords"].shape != (rows, 3):
        raise DataError(f"{path} is damaged: not every vector has a time and a place")
    file_R = np.repeat(np.arange(len(files)), counts_F)
    return VectorsFile(files, arrays["vectors"], arrays["times"], arrays["coords"], file_R, about)


def parquet_library() -> Any:
    """Raises EnvironmentFault where it is not installed."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f".parquet needs a library that is not installed: {error.name}", "pip install 'bridle[parquet]'"
        ) from None
    return pyarrow


def _write_parquet(path: Path, files: list[str], arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    arrow = parquet_library()
    file_R = np.repeat(np.arange(len(files)), arrays["counts"])
    names = arrow.DictionaryArray.from_arrays(arrow.array(file_R, arrow.int32()), arrow.array(files, arrow.string()))
    vectors_RD = arrays["vectors"]
    columns = {
        "file": names,
        "time": arrow.array(arrays["times"]),
        **{name: arrow.array(arrays["coords"][:, axis]) for axis, name in enumerate(("step", "row", "column"))},
        "vector": arrow.FixedSizeListArray.from_arrays(arrow.array(vectors_RD.ravel()), vectors_RD.shape[1]),
    }
    table = arrow.table(columns).replace_schema_metadata({"bridle": json.dumps(header)})
    arrow.parquet.write_table(table, path, row_group_size=_ROWS)


def _read_parquet(path: Path) -> VectorsFile:
    arrow = parquet_library()
    try:
        table = arrow.parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"bridle"])
        check_header(path, about, FORMAT, VERSION)
        names = table["file"].to_numpy()
        width = table.schema.field("vector").type.list_size
        vectors_RD = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)
        coords_R3 = np.stack([table[name].to_numpy() for name in ("step", "row", "column")], 1)
        times_R = table["time"].to_numpy()
    except (OSError, KeyError, ValueError, AttributeError, arrow.ArrowException) as error:
        raise DataError(f"{path} is not a {FORMAT} file, or is damaged: {error}") from error
    begins_R = np.concatenate([[True], names[1:] != names[:-1]])
    return VectorsFile(list(names[begins_R]), vectors_RD, times_R, coords_R3, begins_R.cumsum() - 1, about)
