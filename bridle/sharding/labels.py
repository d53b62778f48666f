"""Where the class of a file may be written: its folder, a table, or a JSON beside it."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from bridle.errors import DataError
from bridle.sharding.journal import Journal
from bridle.storage import Location, opened, read_small

Labels = Literal["folder", "sidecar"] | Location | None
Label = str | list[str] | None
_PATH_COLUMNS = ("path", "file", "filename", "name")
_MOST_BYTES = 16 << 20  # of a JSON beside a file
_HINT = (
    "Wanted: a first line `path,label`, then one line a file (or `path,labels`, several labels with ; between them; "
    'or JSON lines {"path": ..., "label": ...}); or --labels folder.'
)


def labeller(labels: Labels, raw: Location) -> Callable[[str], Label]:
    """Label of a file by its path below `raw`; None for what a table will say later."""
    if labels == "folder":
        return lambda path: PurePosixPath(path).parent.name or None
    if labels == "sidecar":
        return lambda path: _sidecar(raw, path)
    return lambda path: None


def label_by_table(journal: Journal, table: Location, files: int) -> int:
    """Labels from a CSV, TSV or JSONL file; how many of its lines name no file.

    Raises:
        DataError: naming the table and the line.
    """
    named, unmatched = journal.label_by_table(_rows(table), table)
    if not named:
        raise DataError(f"{table} names none of the {files} files", "Its paths are relative to the raw folder.")
    return unmatched


def read_labels(table: Location) -> dict[str, str | list[str]]:
    """The label or labels of each path that a CSV, TSV or JSONL file names.

    Raises:
        DataError: naming the table and the line.
    """
    return {path: label for _, path, label in _rows(table)}


def _rows(table: Location) -> Iterator[tuple[int, str, str | list[str]]]:
    """Line number, path and label."""
    read = _jsonl_rows if table.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows
    try:
        with opened(table) as raw:
            if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise DataError(f"{table} is in UTF-16", "Save it as UTF-8 (in a spreadsheet: CSV UTF-8).")
        with io.TextIOWrapper(opened(table), "utf-8-sig", errors="surrogateescape", newline="") as file:
            for line, path, label in read(table, file):
                try:
                    "".join(label or "").encode()
                except UnicodeEncodeError as error:  # read without harm, but to be shown to people
                    raise DataError(f"{table}, line {line}: the label is not in UTF-8", "Save it as UTF-8.") from error
                if label:
                    yield line, PurePosixPath(path).as_posix(), label
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}", _HINT) from error


def _csv_rows(table: Location, file: Any) -> Iterator[tuple[int, str, Label]]:
    tabs = table.suffix.lower() in (".tsv", ".tab")
    reader = csv.DictReader(file, skipinitialspace=True, strict=True, delimiter="\t" if tabs else ",")
    try:
        reader.fieldnames = columns = [name.strip().lower() for name in reader.fieldnames or []]
        path_column = next((name for name in _PATH_COLUMNS if name in columns), None)
        label_column = next((name for name in ("label", "labels") if name in columns), None)
        if len({*columns}) < len(columns):
            raise DataError(f"{table} has two columns of one name: {','.join(columns)!r}", _HINT)
        if path_column is None or label_column is None:
            raise DataError(f"{table} needs a header with the columns path,label; it has {','.join(columns)!r}", _HINT)
        for row in reader:
            if not row[path_column] or row[label_column] is None or None in row:
                raise DataError(f"{table}, line {reader.line_num}: expected {len(columns)} values", _HINT)
            text = row[label_column].strip()
            yield reader.line_num, row[path_column].strip(), text if label_column == "label" else _several(text)
    except csv.Error as error:
        line = reader.line_num + ("unexpected end" not in str(error))  # the line at fault is not counted yet
        raise DataError(f"{table}, line {line}: {error}", _HINT) from error


def _jsonl_rows(table: Location, file: Any) -> Iterator[tuple[int, str, Label]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            path = next(row[name] for name in _PATH_COLUMNS if name in row)
            yield line, str(path), _label_in(row)
        except (ValueError, TypeError, StopIteration, RecursionError) as error:
            raise DataError(f"{table}, line {line}: no JSON object with path and label", _HINT) from error


def _sidecar(raw: Location, path: str) -> Label:
    """From `clip.json` or `clip.wav.json` beside `clip.wav`."""
    media = raw / path
    for beside in (media.with_suffix(".json"), media.with_name(media.name + ".json")):
        try:
            label = _label_in(json.loads(read_small(beside, _MOST_BYTES).decode("utf-8-sig")))
            "".join(label or "").encode()  # half a surrogate pair is no text
            return label
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"{beside} is no JSON object with a label: {error}", "Mend or remove it, or use --labels folder."
            ) from error
    return None


def _label_in(row: Any) -> Label:
    if not isinstance(row, dict):
        raise TypeError("not an object")
    many = row.get("labels") is not None
    said = row["labels"] if many else row.get("label")
    if said is None:
        return None
    several = said if isinstance(said, list) else [said]
    if any(isinstance(one, dict | list | bool | None) or one != one for one in several):  # NaN is not itself
        raise TypeError(f"{said!r} is no label")
    if isinstance(said, list):
        return sorted({text for one in said if (text := str(one).strip())})
    return _several(str(said)) if many else str(said).strip() or None


def _several(text: str) -> list[str]:
    return sorted({one.strip() for one in re.split("[;|]", text) if one.strip()})
