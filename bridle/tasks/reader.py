"""What the readers of all releases have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from bridle.config.sections import Section
from bridle.tasks.tree import Tree


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip that a release names.

    Attributes:
        id: of the clip within its part, as the lists write it.
        labels: as the lists write them; none where they have none.
        path: of its file, below the root; None where it is not there.
        source: what it was cut from, which must not be in train and test both.
        place: where it is named, for messages.
        span_s: the piece of the file that it is, None for all.
    """

    id: str
    part: str
    labels: tuple[str, ...]
    path: str | None
    source: str
    place: str
    span_s: tuple[float, float] | None = None


class Reader(Section, ABC):
    """Turns the official layout of a release into entries; its fields are what a task's definition says under `reader`.

    Attributes:
        lists: names of the files that it looks for, at any depth.
        unit: what `Entry.source` names.
        sound_tracks: videos are files of audio.
    """

    lists: ClassVar[frozenset[str]]
    unit: ClassVar[str] = "clip"
    sound_tracks: ClassVar[bool] = False

    @abstractmethod
    def read(self, tree: Tree) -> tuple[dict[str, str], Iterator[Entry]]:
        """Classes, in the official order, by how the lists write them; and what the lists name.

        Raises:
            DataError: lists are missing or damaged, also while the entries are taken.
        """
