"""AudioSet: segments of YouTube videos, several labels each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from bridle.errors import DataError
from bridle.tasks.reader import Entry, Reader
from bridle.tasks.tables import rows, table
from bridle.tasks.tree import Tree

_LABELS = "class_labels_indices.csv"
_NAME = re.compile(r"Y??([A-Za-z0-9_-]{11})(?:_[0-9.]+){0,2}")


def youtube_id(stem: str) -> str | None:
    """The id in a file's name: `ID`, or `YID`, then up to two times as in `ID_30.000` or `ID_30000_40000`.

    An id may hold and begin with `-`, `_` and `Y`: its length of 11 is what finds it. None for other names.
    """
    match = _NAME.fullmatch(stem)
    return match[1] if match else None


class AudioSet(Reader):
    """Lists of segments and `class_labels_indices.csv`; audio clips or videos anywhere, found by their YouTube id.

    Attributes:
        train: the lists whose segments are trained on.
        test: those that are tested on.
    """

    release: Literal["audioset"]
    train: tuple[str, ...]
    test: tuple[str, ...]

    lists: ClassVar[frozenset[str]] = frozenset(
        {_LABELS, "balanced_train_segments.csv", "unbalanced_train_segments.csv", "eval_segments.csv"}
    )
    unit: ClassVar[str] = "video"
    sound_tracks: ClassVar[bool] = True

    def read(self, tree: Tree) -> tuple[dict[str, str], Iterator[Entry]]:
        labels, *segments = tree.need((_LABELS,), *((name,) for name in (*self.train, *self.test)))
        classes = {row["mid"]: row["display_name"] for _, row in table(labels, ("mid", "display_name"))}
        parts = ["train"] * len(self.train) + ["test"] * len(self.test)
        return classes, _entries(tree, zip(parts, segments))


def _entries(tree: Tree, segments: Iterator[tuple[str, Path]]) -> Iterator[Entry]:
    paths = tree.index(youtube_id)
    for part, file in segments:
        for line, row in rows(file):
            if row[0].startswith("#"):
                continue
            place = f"{file}, line {line}"
            if len(row) != 4:
                raise DataError(
                    f"{place}: {len(row)} values instead of 4", 'Expected: YTID, start_seconds, end_seconds, "MID,MID".'
                )
            video = row[0]
            mids = tuple(mid.strip() for mid in row[3].split(",") if mid.strip())
            yield Entry(video, part, mids, paths.get(video), video, place)
