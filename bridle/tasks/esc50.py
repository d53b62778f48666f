"""ESC-50: environmental audio clips in five folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from bridle.errors import DataError
from bridle.tasks.reader import Entry, Reader
from bridle.tasks.tables import table, whole
from bridle.tasks.tree import Tree, stem

_COLUMNS = ("filename", "fold", "target", "category", "src_file")


class Esc50(Reader):
    """`meta/esc50.csv` says fold, class and the recording that a clip was cut from."""

    release: Literal["esc50"]

    lists: ClassVar[frozenset[str]] = frozenset({"esc50.csv"})
    unit: ClassVar[str] = "recording"

    def read(self, tree: Tree) -> tuple[dict[str, str], Iterator[Entry]]:
        [file] = tree.need(("esc50.csv",))
        targets = {row["category"]: whole(row["target"], f"{file}, line {line}") for line, row in table(file, _COLUMNS)}
        names = sorted(filter(None, targets), key=lambda name: targets[name])
        return {name: name for name in names}, _entries(tree, file)


def _entries(tree: Tree, file: Path) -> Iterator[Entry]:
    paths = tree.index()
    for line, row in table(file, _COLUMNS):
        place = f"{file}, line {line}"
        if (fold := row["fold"]) not in ("1", "2", "3", "4", "5"):
            raise DataError(f"{place}: there is no fold {fold!r}", "The folds of ESC-50 are 1 to 5.")
        yield Entry(
            id=row["filename"],
            part=f"fold{fold}",
            labels=(row["category"],) if row["category"] else (),
            path=paths.get(stem(row["filename"])),
            source=row["src_file"],
            place=place,
        )
