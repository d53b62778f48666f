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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridle.errors import DataError, EnvironmentFault, first_line
from bridle.formats.array_file import AGAIN, refuse_large
from bridle.formats.codes.arrays import FORMAT, VERSION, as_codes, check_codes, check_levels, sizes_of
from bridle.formats.codes.compact import code_type
from bridle.schema import Codes

_ABOUT = b"bridle"
_COLUMNS = ("file", "levels", "grid", "codes", "times")
_NUMBER_BITS = 64  # of any number, at most
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


def opened_table(path: Path) -> Any:
    """A `ParquetFile` whose names stay in their dictionary: a page says in a few bytes that of a million rows each has
    the same, which may be long."""
    return require_pyarrow().parquet.ParquetFile(path, read_dictionary=["file"], page_checksum_verification=True)


def read_groups(table: Any, groups: Sequence[int], columns: Sequence[str]) -> Any:
    """Row groups of an `opened_table` with the columns that are named: "file", the others of numbers.

    Raises:
        ValueError: a column is of something else.
    """
    for name in columns:
        kind = table.schema_arrow.field(name).type
        while hasattr(kind, "value_type"):
            kind = kind.value_type
        if name != "file" and kind.bit_width > _NUMBER_BITS:  # itself a ValueError for texts
            raise ValueError(f"its column {name} is of {kind}")
    return table.read_row_groups(groups, columns=columns)


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
        with opened_table(path) as table:
            header = json.loads((table.schema_arrow.metadata or {}).get(_ABOUT, b"null"))
            check_codes(header, path)
            sizes = sizes_of(header, path)
            kept = check_levels(levels, sizes[1], path)
            for group in range(table.num_row_groups):
                part = table.metadata.row_group(group)
                each = [part.column(n) for n in range(table.metadata.num_columns)]
                refuse_large(sum(_NUMBER_BITS // 8 * one.num_values + one.total_uncompressed_size for one in each))
                for file, codes_QTHW, times in _rows(read_groups(table, [group], _COLUMNS)):
                    yield as_codes(file, codes_QTHW, times, sizes, kept, path)
    except FileNotFoundError:
        raise
    # AttributeError: an array without values is None
    except (arrow.ArrowException, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a table of codes, or is damaged: {first_line(error)}", AGAIN) from error


def _rows(table: Any) -> Iterator[tuple[Any, np.ndarray, list[float]]]:
    columns = [table.column(name) for name in _COLUMNS]
    for row in range(table.num_rows):
        file, levels, grid, codes, times = (column[row] for column in columns)
        shape = levels.as_py(), *grid.as_py()
        if min(shape) < 1:
            raise ValueError(f"{file} has {shape} codes")
        yield file.as_py(), codes.values.to_numpy().reshape(shape), times.as_py()
