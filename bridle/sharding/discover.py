"""What lies below a folder: candidates by suffix in a fixed order, and their labels. Nothing is opened here."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from bridle.errors import DataError
from bridle.media import SUFFIXES, detect
from bridle.schema import Modality

_CSV_HINT = "Wanted: a first line `path,label`, then one line a file; or --labels folder."
_PATH_COLUMNS = ("path", "file", "filename", "name")


@dataclass(slots=True)
class Found:
    """Media below one folder.

    Attributes:
        modality: of all `files`.
        files: paths relative to the folder, `/` between parts, sorted by their bytes.
        ignored: files that are no candidates.
        rejects: folders and links that could not be read, with the reason.
    """

    modality: Modality
    files: list[str]
    ignored: int = 0
    rejects: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Labels:
    """Label of each file, and what did not fit: files without a row, rows without a file."""

    of: dict[str, str]
    unlabelled: int = 0
    unmatched: int = 0


def discover(raw: Path, modality: Modality | None) -> Found:
    """Find the media below `raw`; the modality is detected from the suffixes when not given.

    Raises:
        DataError: no folder, no media, or several modalities to choose from.
    """
    if not raw.exists():
        raise DataError(f"{raw} does not exist", "Name the folder that holds the media.")
    if not raw.is_dir():
        raise DataError(f"{raw} is a file, not a folder of media", f"Give its folder: bridle shard {raw.parent}")
    rejects: list[dict[str, str]] = []
    paths = list(_walk(raw, rejects))
    kinds = [(path, detect(path)) for path in paths]
    counts = Counter(kind for _, kind in kinds if kind is not None)
    listing = ", ".join(f"{counts[kind]} {kind}" for kind in Modality if counts[kind])
    if modality is None:
        if len(counts) > 1:
            raise DataError(f"{raw} holds several kinds of media: {listing}", "Choose one with --modality.")
        modality = next(iter(counts), None)
    if modality is None or not counts[modality]:
        what = f"no {modality} files" if modality else "no audio, image or video files"
        suffixes = SUFFIXES[modality] if modality else frozenset().union(*SUFFIXES.values())
        beside = f" (it holds {listing})" if listing else f" ({len(paths)} other files)" if paths else ""
        raise DataError(f"{what} below {raw}{beside}", "Known suffixes: " + " ".join(sorted(suffixes)))
    files = sorted((path for path, kind in kinds if kind is modality), key=os.fsencode)
    return Found(modality, files, len(paths) - len(files), rejects)


def folder_labels(files: list[str]) -> Labels:
    """The name of the folder that holds the file; files directly in the raw folder have none."""
    parents = {file: PurePosixPath(file).parent.name for file in files}
    labels = {file: parent for file, parent in parents.items() if parent}
    return Labels(labels, unlabelled=len(files) - len(labels))


def csv_labels(table: Path, files: list[str]) -> Labels:
    """Labels from a CSV with a header: `label`, and `path` (or file, filename, name) relative to the raw folder.

    A bare file name will do where only one file has it.

    Raises:
        DataError: naming the table and the line.
    """
    by_name = Counter(PurePosixPath(file).name for file in files)
    address = {PurePosixPath(file).name: file for file in files if by_name[PurePosixPath(file).name] == 1}
    address |= {file: file for file in files}
    labels = Labels({})
    for line, path, label in _rows(table):
        file = address.get(PurePosixPath(path).as_posix())
        if file is None:
            labels.unmatched += 1
        elif labels.of.setdefault(file, label) != label:
            raise DataError(
                f"{table}, line {line}: {path!r} is labelled {label!r} and {labels.of[file]!r} before",
                "Keep one of the two lines.",
            )
    if files and not labels.of:
        raise DataError(f"{table} names none of the {len(files)} files", "Its paths are relative to the raw folder.")
    labels.unlabelled = len(files) - len(labels.of)
    return labels


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    try:
        with open(table, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            path_column = next((name for name in _PATH_COLUMNS if name in columns), None)
            if path_column is None or "label" not in columns:
                raise DataError(
                    f"{table} needs a header with the columns path,label; it has {','.join(columns)!r}", _CSV_HINT
                )
            for row in reader:
                if not row[path_column] or row["label"] is None or None in row:
                    raise DataError(f"{table}, line {reader.line_num}: expected {len(columns)} values", _CSV_HINT)
                yield reader.line_num, row[path_column], row["label"].strip()
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}", _CSV_HINT) from error
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}", _CSV_HINT) from error


def _walk(raw: Path, rejects: list[dict[str, str]]) -> Iterator[str]:
    """Relative paths of all regular files. Hidden names are skipped; each real folder is entered once, through its
    own path rather than a link where it has both, so loops end and labels do not depend on link names."""
    seen: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        try:
            status = os.stat(raw / folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(raw / folder), key=lambda entry: os.fsencode(entry.name), reverse=True)
        except OSError as error:
            rejects.append({"file": f"{folder}/", "reason": f"cannot be read: {error.strerror}"})
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif entry.is_file():
                    yield path
                elif detect(path):
                    reason = "a link to nothing" if entry.is_symlink() else "no regular file"
                    rejects.append({"file": path, "reason": reason})
            except OSError as error:  # a link to itself
                rejects.append({"file": path, "reason": f"cannot be read: {error.strerror}"})
