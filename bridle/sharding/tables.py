"""Tables of labels as spreadsheets and programs write them: CSV, TSV or JSON lines, columns by name."""

from __future__ import annotations

import codecs
import csv
import io
import json
import posixpath
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from bridle.errors import DataError, nearest
from bridle.storage import Location, opened

Label = str | list[str] | None
_PATH, _LABEL = ("path", "file", "filename", "name"), ("label", "labels")
_GROUP = ("group", "patient", "subject", "speaker", "recording", "session", "scene", "site", "person")  # to propose
_SAMPLE = 200  # rows that a proposal of columns is made from
_STARTS = {"start", "begin", "begin time", "start time", "time start", "onset", "start second", "t start"}
_ENDS = {"end", "stop", "end time", "stop time", "time end", "offset", "end second", "t end", "duration"}
FORMAT = (
    "Expected: a first line `path,label`, then one line for each file (or `path,labels`, several labels with ; between "
    'them; or JSON lines {"path": ..., "label": ...}).'
)
_HINT = FORMAT[:-1] + "; name other columns with --path-column and --label-column."


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns that count; None: `path` and `label` or their usual other names, and no groups."""

    path: str | None = None
    label: str | None = None
    group: str | None = None


class Row(NamedTuple):
    """What one line says; `group`: files of one group belong together."""

    line: int
    path: str
    label: Label
    group: str | None = None


class Table:
    """The rows of a table that have a label or a group, in order.

    Args:
        columns: that count.
        files: paths of the media, which the proposal of columns in an error is made from.

    Attributes:
        recoded: the first text that is not UTF-8 and was read as Windows-1252, as Excel writes it.

    Raises:
        DataError: while iterating; names the table, and the line or the columns.
    """

    def __init__(self, place: Location, columns: Columns, files: Iterable[str]) -> None:
        self.place, self.recoded = place, ""
        self._columns, self._files = columns, files
        self._lines = place.suffix.lower() in (".jsonl", ".ndjson")

    def __iter__(self) -> Iterator[Row]:
        try:
            with opened(self.place) as raw:
                start = raw.read(1024)
            utf16 = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            if b"\0" in start and not utf16:
                raise DataError(
                    f"{self.place} is not a text file", "Save the table as CSV (in a spreadsheet: CSV UTF-8)."
                )
            codec = "utf-16" if utf16 else "utf-8-sig"
            with io.TextIOWrapper(opened(self.place), codec, errors="surrogateescape", newline="") as file:
                for line, path, label, group in self._json_rows(file) if self._lines else self._csv_rows(file):
                    try:
                        label = [*map(self._text, label)] if isinstance(label, list) else self._text(label or "")
                        group = self._text(group or "")
                    except UnicodeError as error:
                        message = f"{self.place}, line {line}: the label is not in UTF-8"
                        raise DataError(message, "Save the table as UTF-8.") from error
                    if label or group:
                        yield Row(line, posixpath.normpath(path), label or None, group or None)
        except OSError as error:
            raise DataError(f"{self.place} cannot be read: {error.strerror}", _HINT) from error
        except UnicodeError as error:
            raise DataError(f"{self.place} is truncated, or not text: {error}", "Save the table as UTF-8.") from error

    def _text(self, cell: str) -> str:
        """A cell that was not UTF-8 as Windows-1252 has it."""
        try:
            cell.encode()
            return cell
        except UnicodeEncodeError:
            text = _recode(cell)
            self.recoded = self.recoded or text
            return text

    def _csv_rows(self, file: Any) -> Iterator[Row]:
        first = file.readline()
        if match := re.fullmatch("sep=(.)\r?\n?", first):  # Excel's own way to say it
            first, delimiter = file.readline(), match[1]
        else:
            bare = re.sub('"[^"]*"', "", first)
            delimiter = max(",;\t", key=bare.count)
        reader = csv.reader([first], skipinitialspace=delimiter != "\t", strict=True, delimiter=delimiter)
        skipped = 1 + bool(match)
        try:
            header = [self._text(name.strip()) for name in next(reader, [])]
            reader = csv.reader(file, skipinitialspace=delimiter != "\t", strict=True, delimiter=delimiter)
            names = [name.lower() for name in header]
            path_at, label_at, group_at = self._places(names, header, reader)
            for cells in reader:
                if not any(map(str.strip, cells)):
                    continue
                if len(cells) < len(names) or any(cells[len(names) :]) or not cells[path_at].strip():
                    message = f"{self.place}, line {reader.line_num + skipped}: expected {len(names)} values"
                    raise DataError(message, _HINT)
                text = cells[label_at].strip()
                label = several(text) if names[label_at] == "labels" else text
                group = cells[group_at].strip() if group_at is not None else None
                yield Row(reader.line_num + skipped, cells[path_at].strip(), label, group)
        except csv.Error as error:
            line = reader.line_num + ("unexpected end" not in str(error))  # the line at fault is not counted yet
            raise DataError(f"{self.place}, line {line + skipped}: {error}", _HINT) from error

    def _json_rows(self, file: Any) -> Iterator[Row]:
        columns = self._columns
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
                if line == 1:
                    self._refuse_segments([str(name).lower() for name in row])
                path = next(row[name] for name in ([columns.path] if columns.path else _PATH) if name in row)
                label = label_in({"label": row.get(columns.label)} if columns.label else row)
                group = label_in({"label": row.get(columns.group)}) if columns.group else None
                yield Row(line, str(path), label, group if isinstance(group, str) else None)
            except (ValueError, TypeError, StopIteration, RecursionError) as error:
                message = f"{self.place}, line {line}: not a JSON object with path and label"
                raise DataError(message, _HINT) from error

    def _places(self, names: list[str], header: list[str], rows: Iterator[list[str]]) -> tuple[int, int, int | None]:
        """Where path, label and group stand; `rows`: those that follow, for a proposal."""
        self._refuse_segments(names)
        filled = [name for name in names if name]
        if len({*filled}) < len(filled):
            raise DataError(f"{self.place} has two columns of the same name: {','.join(filled)!r}", _HINT)
        at: list[int | None] = []
        for option, wanted, usual in (
            ("--path-column", self._columns.path, _PATH),
            ("--label-column", self._columns.label, _LABEL),
            ("--group-column", self._columns.group, ()),
        ):
            if wanted and wanted.strip().lower() not in names:
                known = nearest(wanted, filter(None, header))
                raise DataError(f"{self.place} has no column {wanted!r}: {known}", f"Name another with {option}.")
            name = wanted.strip().lower() if wanted else next((one for one in usual if one in names), None)
            at.append(None if name is None else names.index(name))
        path_at, label_at, group_at = at
        if path_at is None or label_at is None:
            message = f"{self.place} needs a header with the columns path,label; it has {','.join(names)!r}"
            raise DataError(message, self._proposal(header, rows))
        return path_at, label_at, group_at

    def _proposal(self, header: list[str], rows: Iterator[list[str]]) -> str:
        """The options to use, if just one column names files."""
        sample = [cells for cells in islice(rows, _SAMPLE) if len(cells) >= len(header)]
        values = [{_level(cells[at]) for cells in sample if cells[at].strip()} for at in range(len(header))]
        known = {name for path in self._files for name in names_of(path)}
        naming = [at for at, column in enumerate(values) if column and 2 * len(column & known) >= len(column)]
        if len(naming) != 1:
            return _HINT
        if _level(header[naming[0]]) in known:
            return "Its first line is data: add a line with the names of the columns above it, such as path,label."
        others = [at for at in range(len(header)) if at not in naming and header[at]]
        groups = [at for at in others if header[at].lower() in _GROUP or header[at] == self._columns.group]
        if not others:
            return _HINT
        label = min(others, key=lambda at: (at in groups, len(values[at]) < 2, len(values[at])))
        options = [
            ("--path-column", naming[0]),
            ("--label-column", label),
            *(("--group-column", at) for at in groups[:1]),
        ]
        added = " ".join(f"{option} {shlex.quote(header[at])}" for option, at in options)
        return f"Its column {header[naming[0]]!r} names the files: add {added} (or another column for the labels)."

    def _refuse_segments(self, names: list[str]) -> None:
        """The times of events would be lost. With --label-column the user wants labels of whole files."""
        units = r"\(.*?\)|_s(ec(onds?)?)?$|_ms$"
        plain = {re.sub(r"[\s_]+", " ", re.sub(units, "", one)).strip() for one in names}
        audacity = len(names) >= 2 and all(re.fullmatch(r"\d+([.,]\d+)?", one) for one in names[:2])
        if self._columns.label or not (audacity or (plain & _STARTS and plain & _ENDS)):
            return
        kind = "Audacity labels" if audacity else "Raven or BirdNET" if "begin time (s)" in names else "start and end"
        raise DataError(
            f"{self.place} is a table of segments ({kind}): each line has the times of an event in a recording, and "
            "bridle shard labels whole files",
            "Cut the recordings first, one file per event: ffmpeg -ss START -to END -i rec.wav robin/rec_1.wav; or "
            "give a table with one label per file. To label whole files with this table and ignore its times, name its "
            "columns with --path-column and --label-column.",
        )


def names_of(path: str) -> tuple[str, str, str, str]:
    """What a table may call a file: its path and its name, each with and without the suffix, levelled."""
    whole = _level(path)
    stem = whole.rpartition(".")[0]
    return whole, stem, whole.rpartition("/")[2], stem.rpartition("/")[2]


def called_below(folders: Iterable[str], path: str) -> str:
    """What a table calls a file, levelled; without the way down to the raw folder (its paths) that it begins with."""
    text = _level(path)
    for folder in folders:
        names = _level(folder).split("/")
        for at in range(len(names)):
            if text.startswith(above := "/".join(names[at:]) + "/"):
                return text.removeprefix(above)
    return text


def _level(path: str) -> str:
    """Paths that differ in Unicode form, case or kind of slash alone are equal."""
    text = path.strip().replace("\\", "/")
    with_letters = text if text.isascii() else unicodedata.normalize("NFC", _recode(text, "replace"))
    return posixpath.normpath(with_letters.casefold())


def _recode(text: str, errors: str = "strict") -> str:
    """Windows-1252 where it is not UTF-8."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("cp1252", errors)


def label_in(row: Any) -> Label:
    """The label or labels of a JSON object.

    Raises:
        TypeError: it is not an object, or its label is not a label.
    """
    if not isinstance(row, dict):
        raise TypeError("not an object")
    many = row.get("labels") is not None
    found = row["labels"] if many else row.get("label")
    if found is None:
        return None
    if any(
        isinstance(one, dict | list | bool | None) or one != one
        for one in (found if isinstance(found, list) else [found])
    ):
        raise TypeError(f"{found!r} is not a label")  # NaN is not itself
    if isinstance(found, list):
        return sorted({text for one in found if (text := str(one).strip())})
    return several(str(found)) if many else str(found).strip() or None


def several(text: str) -> list[str]:
    """Labels with ; or | between them, sorted."""
    return sorted({one.strip() for one in re.split("[;|]", text) if one.strip()})
