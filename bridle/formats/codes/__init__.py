"""Codes on disk, in the form that a name's ending tells; docs/codes.md describes them all.

.codes                 compact.py   a byte or two a code, random access, streamed
.parquet               table.py     a row a file, streamed
.npz, .safetensors     arrays.py    arrays of everything, in memory
(none: a folder)       members.py   shards with the codes beside their media
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bridle.errors import DataError, UsageError
from bridle.formats.codes import arrays, members, table
from bridle.formats.codes.compact import CodesError, CodesFile, CodesWriter
from bridle.schema import Codes
from bridle.storage import Location

SUFFIXES = (".codes", ".parquet", ".npz", ".safetensors")


def check_ending(out: Location) -> None:
    """Check the suffix; raises UsageError if it is unknown, EnvironmentFault if its library is missing."""
    if out.name in SUFFIXES:
        raise UsageError(f"{out} is a suffix without a name", f"Give --out a name: NAME{out.name}")
    if out.suffix and out.suffix not in SUFFIXES:
        raise UsageError(
            f"{out}: '{out.suffix}' is not a format of codes",
            f"Use one of the suffixes {', '.join(SUFFIXES)}. Without a suffix, shards are copied with their codes "
            "beside the media.",
        )
    if out.suffix == ".parquet":
        table.require_pyarrow()


def write_codes(path: Path, codes: Iterable[Codes], header: dict[str, Any], suffix: str = "") -> None:
    """One file in the form of its ending (or of `suffix`).

    Args:
        header: `codes`, `levels`, `skipped`, and what else is to be said of all.
    """
    suffix = suffix or path.suffix
    if suffix == ".codes":
        with CodesWriter(path, {name: value for name, value in header.items() if name != "skipped"}) as writer:
            for item in codes:
                writer.add(item.file, item.codes_THWQ.movedim(-1, 0).numpy(), item.times_T)
            writer.note(skipped=header["skipped"])
    elif suffix == ".parquet":
        table.write(path, codes, header)
    else:
        arrays.write(path, codes, header, suffix)


def read_codes(path: Path, levels: int | None = None) -> list[Codes]:
    """All that `each_codes` gives."""
    return list(each_codes(path, levels))


def each_codes(path: Path, levels: int | None = None) -> Iterator[Codes]:
    """Codes of a file, or of a folder of shards with codes, one after the other.

    Args:
        levels: only the first N of each, a valid, coarser tokenization.

    Raises:
        DataError: there is none, it is of another version, cut or damaged, or has codes out of range.
        UsageError: fewer levels are there.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist", "Write one: bridle tokenize FILES --out NAME.codes")
    if path.is_dir():
        return members.read(path, levels)
    if path.suffix == ".codes":
        return _compact(path, levels)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: '{path.suffix}' is not a format of codes", f"Known: {', '.join(SUFFIXES)}, folders.")
    return table.read(path, levels) if path.suffix == ".parquet" else arrays.read(path, levels)


def _compact(path: Path, levels: int | None) -> Iterator[Codes]:
    try:
        with CodesFile(path) as file:
            file.kept = arrays.check_levels(levels, file.levels, path)
            for record in file:
                sizes = file.codes, file.kept  # the others are not even read
                yield arrays.as_codes(record.file, record.codes_QTHW, record.times_T, sizes, file.kept, path)
    except CodesError as error:  # its reader knows nothing of BRIDLE
        raise DataError(error.message, error.hint) from error


__all__ = [
    "SUFFIXES",
    "CodesError",
    "CodesFile",
    "CodesWriter",
    "check_ending",
    "each_codes",
    "read_codes",
    "write_codes",
]
