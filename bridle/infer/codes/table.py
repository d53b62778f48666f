"""Codes as a Parquet table, one row a file, for pandas, Polars, DuckDB and what else reads it.

    file    string        bytes that are no UTF-8 as \\\\udcff
    grid    list<int32>   patches along time, rows, columns
    levels  int32         Q
    times   list<double>  start of each step along time, in seconds
    codes   list<uint8>   (uint16 beyond 256 codes) level by level, in each time slowest: the first levels are a prefix

The schema's metadata has JSON under "bridle": format, version, checkpoint, model (hash of the weights), codes (size of
a codebook), levels, skipped. Rows are written in groups: memory does not grow with the table.

Shapes: Q levels, T H W grid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bridle.errors import DataError, EnvironmentFault
from bridle.infer.codes.arrays import FORMAT, VERSION, as_codes, check_codes, check_levels, check_range
from bridle.infer.codes.compact import code_type
from bridle.schema import Codes

_ABOUT = b"bridle"
_GROUP_ROWS, _GROUP_CODES = 4096, 8_000_000  # a row group ends at either


def require_pyarrow() -> Any:
    """`pyarrow`, with its `parquet`.

    Raises:
        EnvironmentFault: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFault(
            "Parquet needs pyarrow, which is not installed.", "pip install 'bridle[parquet]'"
        ) from error
    return pyarrow


def write(path: Path, codes: Iterable[Codes], header: dict[str, Any]) -> None:
    """One row a file."""
    arrow = require_pyarrow()
    kind = code_type(header["codes"])
    about = json.dumps({"format": FORMAT, "version": VERSION, **header})
    schema = arrow.schema(
        [
            ("file", arrow.string()),
            ("grid", arrow.list_(arrow.int32())),
            ("levels", arrow.int32()),
            ("times", arrow.list_(arrow.float64())),
            ("codes", arrow.list_(arrow.from_numpy_dtype(kind))),
        ],
        metadata={_ABOUT: about.encode()},
    )
    with arrow.parquet.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for rows in _groups(codes):
            columns = {
                "file": [item.file.encode("utf-8", "backslashreplace").decode() for item in rows],
                "grid": [list(item.grid) for item in rows],
                "levels": [item.levels for item in rows],
                "times": [np.asarray(item.times_T, np.float64) for item in rows],
                "codes": [item.codes_THWQ.movedim(-1, 0).numpy().astype(kind).ravel() for item in rows],
            }
            writer.write_table(arrow.table(columns, schema=schema))


def _groups(codes: Iterable[Codes]) -> Iterator[list[Codes]]:
    rows, size = list[Codes](), 0
    for item in codes:
        rows.append(item)
        size += item.codes_THWQ.numel()
        if len(rows) == _GROUP_ROWS or size >= _GROUP_CODES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def read(path: Path, levels: int | None = None) -> Iterator[Codes]:
    """One after the other, a row group in memory.

    Raises:
        DataError: not a table of codes, of a later version, or damaged.
    """
    arrow = require_pyarrow()
    try:
        with arrow.parquet.ParquetFile(path, page_checksum_verification=True) as table:
            header = json.loads((table.schema_arrow.metadata or {}).get(_ABOUT, b"null"))
            check_codes(header, path)
            kept = check_levels(levels, header["levels"], path)
            for group in range(table.num_row_groups):
                for row in _rows(table.read_row_group(group)):
                    yield _codes(row, header, kept, path)
    except FileNotFoundError:
        raise
    except (arrow.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a table of codes, or is damaged: {str(error).splitlines()[0]}",
            "Write it again, or copy it again.",
        ) from error


def _rows(table: Any) -> Iterator[tuple[str, list[int], np.ndarray, list[float]]]:
    columns = [table.column(name) for name in ("file", "grid", "codes", "times")]
    for row in range(table.num_rows):
        file, grid, codes, times = (column[row] for column in columns)
        yield file.as_py(), grid.as_py(), codes.values.to_numpy(), times.as_py()


def _codes(row: tuple[str, list[int], np.ndarray, list[float]], header: Any, kept: int, path: Path) -> Codes:
    file, grid, flat, times = row
    codes_QTHW = flat.reshape(header["levels"], *grid)[:kept]
    if len(times) != grid[0]:
        raise ValueError(f"{file} has {len(times)} times and {grid[0]} steps")
    check_range(codes_QTHW, header["codes"], path)
    return as_codes(file, codes_QTHW, times, header["codes"])
