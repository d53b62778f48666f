"""Kinetics: segments of YouTube videos, one action each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from bridle.errors import DataError
from bridle.tasks.reader import Entry, Reader
from bridle.tasks.tables import lines, table, whole
from bridle.tasks.tree import Tree, stem

_COLUMNS = ("youtube_id", "time_start", "time_end")
_PAIR = re.compile(r"(\S.*) (\d+)")
_TIMES = re.compile(r"_\d{6}_\d{6}$")
_NAMES_CSV, _NAMES_TXT = "kinetics_400_labels.csv", "labels.txt"


class Kinetics(Reader):
    """The published CSVs with their columns, or lists of `path label` as video models are trained from.

    `train.csv` and `val.csv` must be there; `test.csv` is read where it is.
    """

    release: Literal["kinetics"]

    lists: ClassVar[frozenset[str]] = frozenset(
        {"train.csv", "val.csv", "validate.csv", "test.csv", _NAMES_CSV, _NAMES_TXT}
    )
    unit: ClassVar[str] = "video"

    def read(self, tree: Tree) -> tuple[dict[str, str], Iterator[Entry]]:
        train, val = tree.need(("train.csv",), ("val.csv", "validate.csv"))
        files = {"train": train, "val": val}
        if "test.csv" in tree.lists:
            files["test"] = tree.root / tree.lists["test.csv"]
        if _PAIR.fullmatch(next(lines(train), "").strip()):
            return _names(tree, train), _listed_paths(tree, files)
        labels = {row["label"] for _, row in table(train, (*_COLUMNS, "label"))} - {""}
        return {label: label for label in sorted(labels)}, _segments(tree, files)


def _segments(tree: Tree, files: dict[str, Path]) -> Iterator[Entry]:
    """Rows of the published CSVs; videos are found by id and times, or by id alone."""
    paths = tree.index()
    for part, file in files.items():
        for line, row in table(file, _COLUMNS if part == "test" else (*_COLUMNS, "label")):
            place = f"{file}, line {line}"
            video, label = row["youtube_id"], row.get("label")
            name = f"{video}_{whole(row['time_start'], place):06d}_{whole(row['time_end'], place):06d}"
            path = paths.get(name) or paths.get(video)
            yield Entry(name, part, (label,) if label else (), path, video, place)


def _listed_paths(tree: Tree, files: dict[str, Path]) -> Iterator[Entry]:
    """Lines `path label`; a path may be of another machine: its longest end that is a file below the root counts."""
    there = set(tree.media)
    for part, file in files.items():
        for path, index, place in _pairs(file):
            folders = path.strip("/").split("/")
            ends = ("/".join(folders[start:]) for start in range(len(folders)))
            found = next((end for end in ends if end in there), None)
            yield Entry(path, part, (index,), found, _TIMES.sub("", stem(path)), place)


def _pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    """Path, index of the class, and where that is written."""
    for line, text in enumerate(lines(file), start=1):
        if not text.strip():
            continue
        match = _PAIR.fullmatch(text.strip())
        if match is None:
            raise DataError(f"{file}, line {line}: {text.strip()!r} is not `path label`", "Fix the line.")
        yield match[1], match[2], f"{file}, line {line}"


def _names(tree: Tree, train: Path) -> dict[str, str]:
    """Class names by index; the index itself where no file has names."""
    if _NAMES_CSV in tree.lists:
        return {row["id"]: row["name"] for _, row in table(tree.root / tree.lists[_NAMES_CSV], ("id", "name"))}
    if _NAMES_TXT in tree.lists:
        names = (text.strip() for text in lines(tree.root / tree.lists[_NAMES_TXT]))
        return {str(index): name for index, name in enumerate(names) if name}
    return {index: index for index in sorted({index for _, index, _ in _pairs(train)}, key=int)}
