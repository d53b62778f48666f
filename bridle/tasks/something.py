"""Something-Something: people doing things with objects, named by templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from bridle.errors import DataError
from bridle.tasks.reader import Entry, Reader
from bridle.tasks.tables import read_json, whole
from bridle.tasks.tree import Tree

_FILES = {name: (f"something-something-v2-{name}.json", f"{name}.json") for name in ("train", "validation", "labels")}


class Something(Reader):
    """JSON lists of videos; the class is the template without the brackets around its objects."""

    release: Literal["something"]

    lists: ClassVar[frozenset[str]] = frozenset(name for names in _FILES.values() for name in names)
    unit: ClassVar[str] = "video"

    def read(self, tree: Tree) -> tuple[dict[str, str], Iterator[Entry]]:
        train, validation, labels = tree.need(*_FILES.values())
        indices: dict[str, Any] = read_json(labels, dict)
        places = {name: whole(str(index), f"{labels}, {name!r}") for name, index in indices.items()}
        classes = {name: name for name in sorted(places, key=lambda name: places[name])}
        return classes, _entries(tree, {"train": train, "val": validation})


def _entries(tree: Tree, files: dict[str, Path]) -> Iterator[Entry]:
    paths = tree.index()
    for part, file in files.items():
        records: list[Any] = read_json(file, list)
        for number, record in enumerate(records, start=1):
            place = f"{file}, entry {number}"
            if not isinstance(record, dict) or not {"id", "template"} <= record.keys():
                raise DataError(f"{place}: not an object with id and template", "Download the file again.")
            video = str(record["id"])
            label = str(record["template"] or "").replace("[", "").replace("]", "")
            yield Entry(video, part, (label,) if label else (), paths.get(video), video, place)
