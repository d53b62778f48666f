"""What lies in the folder of a release: its media and its lists, from one walk."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from bridle.errors import DataError
from bridle.schema import Modality


@dataclass(frozen=True, slots=True)
class Tree:
    """The folder of a release.

    Attributes:
        media: files of the task's modality, below `root` with `/` between parts, shallow ones first.
        lists: of each name that the reader looks for the shallowest file.
        wanted: the layout and its source, for messages.
        notes: what readers have to tell the user.
    """

    root: Path
    media: list[str]
    lists: dict[str, str]
    wanted: str
    notes: list[str] = field(default_factory=list)

    def need(self, *wanted: tuple[str, ...]) -> list[Path]:
        """One list for each of `wanted`, which says under which names it may be there.

        Raises:
            DataError: one is not there.
        """
        found = [next((self.lists[name] for name in names if name in self.lists), None) for names in wanted]
        paths = [self.root / path for path in found if path is not None]
        if len(paths) < len(wanted):
            gone = ", ".join(" or ".join(names) for names, path in zip(wanted, found) if path is None)
            raise self.lacks(", ".join(" or ".join(names) for names in wanted), gone)
        return paths

    def lacks(self, looked_for: str, gone: str = "") -> DataError:
        """The error that says what was looked for and what is there."""
        names = sorted(os.listdir(self.root))
        top = ", ".join(names[:10]) or "nothing"
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        missing = f"; missing: {gone}" if gone and gone != looked_for else ""
        return DataError(f"{self.root}: expected {looked_for}{missing}; found {top}{more}", self.wanted)

    def index(self, key: Callable[[str], str | None] = str) -> dict[str, str]:
        """Path of each file by its name without suffix, or by what `key` makes of that; the first of several."""
        paths: dict[str, str] = {}
        again = 0
        for path in self.media:
            if (name := key(stem(path))) and paths.setdefault(name, path) is not path:
                again += 1
        if again:
            self.notes.append(f"duplicate files of a clip, left out: {again}")
        return paths


def stem(path: str) -> str:
    """The name of a file without folder and suffix."""
    return path.rpartition("/")[2].rpartition(".")[0]


def survey(
    root: Path, modality: Modality, wanted: str, lists: Collection[str] = (), *, sound_tracks: bool = False
) -> Tree:
    """Walk a folder once. Hidden names are skipped, linked folders are entered, each real one once.

    Args:
        lists: names to look for beside the media.
        sound_tracks: videos are files of audio.

    Raises:
        DataError: a folder cannot be read.
    """
    from bridle.media import detect  # torch comes along, which takes seconds

    tree = Tree(root, [], {}, wanted)
    seen: set[tuple[int, int]] = set()
    folders = [""]
    for folder in folders:  # grows on the way
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as entries:
                inside = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
            for entry in inside:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    folders.append(path)
                elif entry.name in lists:
                    tree.lists.setdefault(entry.name, path)
                elif detect(entry.name, sound_tracks=sound_tracks) is modality and entry.is_file():
                    tree.media.append(path)
        except OSError as error:
            raise DataError(f"{error.filename or root / folder} cannot be read: {error.strerror}") from error
    return tree
