"""The vectors file: the embeddings of many files in one `.npz`, `.safetensors` or `.parquet`, readable without BRIDLE.

Arrays hold the vectors of all files end to end, a JSON header says whose they are:

    vectors (rows, D)   float32 or float16
    times   (rows,)     float64, seconds from the file's begin
    coords  (rows, 3)   int32, (time, row, column) in the file's grid; zero where a vector stands for a whole file
    counts  (files,)    int64, how many rows each file has
    header  JSON {"format": "bridle-vectors", "version": 1, "files": [names], "model": hash, "checkpoint": name,
            "modality", "per": "file" | "step" | "patch", "pool", "inputs": [where the files were found], "folder" that
            the command was given in, "skipped": [{"file", "reason"}]}; it lies where `array_file` says

A `.parquet` has a row for each vector instead, with columns number (of the file), file, time, step, row, column
and vector; its schema's
metadata hold the header, without the files, as "bridle".

Shapes: F files, R rows, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridle.errors import DataError, UsageError
from bridle.formats.array_file import AGAIN, check_version, read_arrays, refuse_large, write_arrays
from bridle.formats.codes.table import opened_table, read_groups, require_pyarrow
from bridle.schema import Embedded
from bridle.storage import Location

FORMAT, VERSION = "bridle-vectors", 1
SUFFIXES = (".npz", ".safetensors", ".parquet")
PART = ".safetensors"
_COLUMNS = ("number", "file", "time", "step", "row", "column", "vector")
_ARRAYS = ("vectors", "times", "coords", "counts")
_HINT = "Write one: bridle embed FILES --out vectors.npz"


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


def check_ending(out: Location) -> None:
    """Check the suffix; raises UsageError if it is unknown, EnvironmentFault if its library is missing."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out} does not end in {', '.join(SUFFIXES)}", "Give --out one of these suffixes.")
    if out.suffix == ".parquet":
        require_pyarrow()


def write_vectors(
    path: Path, embedded: Iterable[Embedded], about: dict[str, Any], *, half: bool = False, suffix: str = ""
) -> None:
    """A new file.

    Args:
        half: as float16.
        suffix: of the form; the path's own may be another.

    Raises:
        OSError: it cannot be written.
    """
    files, counts, times = list[str](), list[int](), list[float]()
    kind = np.dtype(np.float16 if half else np.float32)
    vectors, coords = [np.zeros((0, 0), kind)], [np.zeros((0, 3), np.int32)]
    for one in embedded:
        files.append(one.file)
        counts.append(len(one.vectors_RD))
        vectors.append(one.vectors_RD.numpy().astype(kind))
        times += one.times_R
        coords.append(one.coords_R3.numpy().astype(np.int32))
    arrays = {
        "vectors": np.concatenate(vectors[1:] or vectors),
        "times": np.array(times, dtype=np.float64),
        "coords": np.concatenate(coords),
        "counts": np.array(counts, dtype=np.int64),
    }
    _write(path, [(arrays, files)], about, suffix or path.suffix)


def join_vectors(path: Path, parts: Sequence[Path], about: dict[str, Any], suffix: str) -> dict[str, int]:
    """Files in the form `PART`, one after the other, as a new one. Parquet is written a part at a time; the other forms
    have everything in memory.

    Returns:
        `{files, vectors, width}`.
    """
    sizes = {"files": 0, "vectors": 0, "width": 0}

    def each() -> Iterable[tuple[dict[str, np.ndarray], list[str]]]:
        for part in parts:
            arrays, header = read_arrays(part, _ARRAYS, "finished part", PART)
            if header["files"]:
                sizes["files"] += len(header["files"])
                sizes["vectors"] += len(arrays["vectors"])
                sizes["width"] = arrays["vectors"].shape[1]
                yield arrays, header["files"]

    _write(path, each(), about, suffix)
    return sizes


def read_vectors(path: Path) -> VectorsFile:
    """Read a vectors file back; nothing in it is executed or unpickled.

    Raises:
        DataError: not a vectors file, of a later version, or damaged.
        EnvironmentFault: Parquet's library is missing.
    """
    if not path.is_file():
        raise DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}", _HINT)
    if path.suffix == ".codes":
        raise DataError(f"{path} is a codes file, not a vectors file", _HINT)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    _check_about(read_arrays(path, (), "vectors file")[1], path)  # first: other files of ours have other arrays
    arrays, about = read_arrays(path, _ARRAYS, "vectors file")
    files = about.pop("files", None)
    counts_F = arrays["counts"]
    counted = isinstance(files, list) and counts_F.shape == (len(files),) and counts_F.dtype.kind == "i"
    if not counted or (counts_F < 0).any() or counts_F.sum() != len(arrays["vectors"]):
        raise DataError(f"{path} is damaged: its counts do not add up to its vectors", AGAIN)
    file_R = np.repeat(np.arange(len(files)), counts_F)
    return _checked(VectorsFile(files, arrays["vectors"], arrays["times"], arrays["coords"], file_R, about), path)


def _checked(read: VectorsFile, path: Path) -> VectorsFile:
    rows, arrays = len(read.file_R), (read.vectors_RD, read.times_R, read.coords_R3)
    shapes = read.vectors_RD.shape[:1], read.vectors_RD.ndim, read.times_R.shape, read.coords_R3.shape
    kinds = "".join(array.dtype.kind for array in arrays)
    named = all(isinstance(file, str) for file in read.files)
    if not named or kinds != "ffi" or shapes != ((rows,), 2, (rows,), (rows, 3)) or not np.isfinite(read.times_R).all():
        raise DataError(f"{path} is damaged: not every vector has a name, a time and a place", AGAIN)
    return read


def _check_about(about: Any, path: Path) -> None:
    check_version(about, path, FORMAT, VERSION, _HINT)
    texts = [about.get(name) for name in ("model", "checkpoint", "per", "pool")]
    texts += [about.get("folder", ""), *(inputs if isinstance(inputs := about.get("inputs"), list) else [None])]
    if not all(isinstance(one, str) for one in texts):
        raise DataError(f"{path} is damaged: its header does not say which model made it", _HINT)


def _write(
    path: Path, pieces: Iterable[tuple[dict[str, np.ndarray], list[str]]], about: dict[str, Any], suffix: str
) -> None:
    header = {"format": FORMAT, "version": VERSION, **about}
    if suffix == ".parquet":
        _write_parquet(path, pieces, header)
        return
    some = list(pieces)
    arrays = {name: np.concatenate([piece[name] for piece, _ in some]) for name in _ARRAYS}
    write_arrays(path, arrays, {**header, "files": [file for _, files in some for file in files]}, suffix)


def _write_parquet(
    path: Path, pieces: Iterable[tuple[dict[str, np.ndarray], list[str]]], header: dict[str, Any]
) -> None:
    arrow, writer, first = require_pyarrow(), None, 0
    try:
        for arrays, files in pieces:
            file_R = np.repeat(np.arange(len(files)), arrays["counts"])
            names = [file.encode("utf-8", "backslashreplace").decode() for file in files]
            vectors_RD = arrays["vectors"]
            columns = {
                "number": arrow.array(first + file_R),
                "file": arrow.array(names, arrow.string()).take(arrow.array(file_R)),
                "time": arrow.array(arrays["times"]),
                **{name: arrow.array(arrays["coords"][:, at]) for at, name in enumerate(("step", "row", "column"))},
                "vector": arrow.FixedSizeListArray.from_arrays(arrow.array(vectors_RD.ravel()), vectors_RD.shape[1]),
            }
            table = arrow.table(columns).replace_schema_metadata({"bridle": json.dumps(header)})
            writer = writer or arrow.parquet.ParquetWriter(
                path, table.schema, compression="zstd", write_page_checksum=True
            )
            writer.write_table(table)
            first += len(files)
    finally:
        if writer:
            writer.close()


def _read_parquet(path: Path) -> VectorsFile:
    arrow = require_pyarrow()
    try:
        with opened_table(path) as file:
            about = json.loads((file.schema_arrow.metadata or {})[b"bridle"])
            _check_about(about, path)
            width = file.schema_arrow.field("vector").type.list_size
            # Not by column: of a damaged file pyarrow 20 ends the process where it is asked for one.
            names = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
            refuse_large(file.metadata.num_rows * 4 * (width + 2 * len(_COLUMNS)) + names)
            table = read_groups(file, range(file.num_row_groups), _COLUMNS)
        file_R = table["number"].to_numpy()
        files = [
            np.array(part.dictionary.to_pylist(), object)[part.indices.to_numpy(zero_copy_only=False)]
            for part in table["file"].chunks
        ]
        names = np.concatenate([np.empty(0, object), *files])
        vectors_RD = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)
        coords_R3 = np.stack([table[name].to_numpy() for name in ("step", "row", "column")], 1)
        times_R = table["time"].to_numpy()
    except (OSError, LookupError, ValueError, AttributeError, arrow.ArrowException) as error:
        raise DataError(f"{path} is not a vectors file, or is damaged: {error}", AGAIN) from error
    if file_R.dtype.kind != "i":
        raise DataError(f"{path} is damaged: not every vector has the number of a file", AGAIN)
    begins_R = np.concatenate([[True], np.diff(file_R) != 0])[: len(names)]
    read = VectorsFile(list(names[begins_R]), vectors_RD, times_R, coords_R3, begins_R.cumsum() - 1, about)
    return _checked(read, path)
