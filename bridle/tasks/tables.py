"""The lists of a release: text, CSV and JSON. What is wrong with one is reported with its file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from bridle.errors import DataError
from bridle.storage import opened

T = TypeVar("T")

_HINT = "Fix the line, or download the file again."


def lines(file: Path) -> Iterator[str]:
    """Lines in UTF-8 with their ends, a byte order mark taken off.

    Raises:
        DataError: naming the file, and the line that is in another encoding.
    """
    try:
        with opened(file) as raw:
            for number, line in enumerate(raw, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{file}, line {number} is not in UTF-8", "Save the file as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of each row of a CSV; empty lines are left out.

    Raises:
        DataError: naming the file and the line where the damaged row begins.
    """
    reader = csv.reader(lines(file), skipinitialspace=True, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, [value.strip() for value in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, line {line}: {error}", _HINT) from error


def table(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values by column of each row of a CSV with a header.

    Raises:
        DataError: as `rows`; a column is missing, or a row has another number of values than the header.
    """
    header: list[str] = []
    for line, row in rows(file):
        if not header:
            header = row
            if absent := [name for name in columns if name not in header]:
                raise DataError(
                    f"{file}, line {line}: no column {', '.join(absent)}; the header is {','.join(header)!r}", _HINT
                )
        elif len(row) != len(header):
            raise DataError(f"{file}, line {line}: {len(row)} values instead of {len(header)}", _HINT)
        else:
            yield line, dict(zip(header, row))
    if not header:
        raise DataError(f"{file} is empty", f"Expected: a header with {','.join(columns)}.")


def read_json(file: Path, kind: type[T]) -> T:
    """A JSON file with a list or an object in it.

    Raises:
        DataError: naming the file, and the line where it ends to be JSON.
    """
    try:
        content = json.loads("".join(lines(file)))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {error.lineno}: {error.msg}", _HINT) from error
    if not isinstance(content, kind):
        raise DataError(f"{file} holds a JSON {type(content).__name__} instead of a {kind.__name__}", _HINT)
    return content


def whole(text: str, place: str) -> int:
    """A whole number, also one written `10.0`; DataError with the place where there is none."""
    try:
        if (value := float(text)).is_integer():
            return int(value)
    except ValueError:
        pass
    raise DataError(f"{place}: {text!r} is not an integer", _HINT)
