"""The labelled items of a task in a folder, and what is wrong or odd about them: the checks that all readers share."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bridle.errors import DataError
from bridle.tasks.reader import Entry
from bridle.tasks.task import Task
from bridle.tasks.tree import Tree, survey


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled clip.

    Attributes:
        path: below the root, with `/` between parts; begins with `../` in a test set that lies beside the root.
        labels: names of its classes; exactly one unless the task is multi-label.
        part: `train`, `val`, `test`, or `fold1` to `fold5`.
        span_s: the piece of the file that it is, None for all.
    """

    path: str
    labels: tuple[str, ...]
    part: str
    span_s: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder has of a task.

    Attributes:
        items: sorted by part and path.
        classes: in the official order.
        missing: of each part what the lists name and the folder lacks.
        notes: one line each on what was left out or is odd, for the user.
    """

    items: list[Item]
    classes: list[str]
    missing: dict[str, list[str]]
    notes: list[str]


@dataclass(slots=True)
class _Found:
    """What the entries of a release come to."""

    items: list[Item] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sources: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    unlabelled: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)


def read_task(task: Task, root: Path, *, max_missing: float = 0.5) -> Listing:
    """The labelled items of a task in a folder with its official release.

    Args:
        max_missing: the share of a part's clips that may be named by the lists and not be there.

    Raises:
        DataError: naming what is missing or wrong, with the file and line.
    """
    wanted = f"Expected for {task.title}:\n{task.layout}\nAvailable from: {task.get}"
    if not root.is_dir():
        raise DataError(f"{root} is {'not a folder' if root.exists() else 'missing'}", wanted)
    tree = survey(root, task.modality, wanted, task.reader.lists, sound_tracks=task.reader.sound_tracks)
    classes, entries = task.reader.read(tree)
    found = _collect(entries, classes)
    _refuse_gaps(task, tree, found, max_missing)
    found.items.sort(key=lambda item: (item.part, item.path, item.span_s or ()))
    names = list(classes.values())
    return Listing(found.items, names, dict(found.missing), [*tree.notes, *_notes(task, found, names)])


def _collect(entries: Iterable[Entry], classes: dict[str, str]) -> _Found:
    found = _Found()
    seen: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if not entry.labels:
            found.unlabelled[entry.part] += 1
        elif entry.id in seen[entry.part]:
            found.again[entry.part] += 1
        else:
            seen[entry.part].add(entry.id)
            labels = tuple(dict.fromkeys(_class(label, entry, classes) for label in entry.labels))
            if entry.path is None:
                found.missing[entry.part].append(entry.id)
            else:
                found.items.append(Item(entry.path, labels, entry.part, entry.span_s))
                found.sources[entry.part].add(entry.source)
    return found


def _class(label: str, entry: Entry, classes: dict[str, str]) -> str:
    try:
        return classes[label]
    except KeyError:
        close = difflib.get_close_matches(label, classes, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(
            f"{entry.place}: {label!r} is not among the {len(classes)} classes{guess}",
            "Fix it, or take all lists from one release.",
        ) from None


def _refuse_gaps(task: Task, tree: Tree, found: _Found, max_missing: float) -> None:
    """A part without a clip, or with too many missing; one that nobody has nor needs is no fault."""
    counts = Counter(item.part for item in found.items)
    needed = dict.fromkeys((*task.train, *task.test))
    for part in needed | dict.fromkeys(counts):
        gone = found.missing.get(part, [])
        listed = counts[part] + len(gone)
        if len(gone) > max_missing * listed:
            raise DataError(
                f"{tree.root} lacks {len(gone)} of the {listed} clips listed for {part}, more than "
                f"{max_missing:.0%}: {_some(gone)}; looked among {len(tree.media)} {task.modality} files below it",
                f"Complete the folder, or allow more with --max-missing.\n{tree.wanted}",
            )
        if not counts[part]:
            raise DataError(f"{tree.root} has no clip for {part} of {task.name}", tree.wanted)


def _notes(task: Task, found: _Found, classes: list[str]) -> list[str]:
    notes = [f"{part}: rows without a label, left out: {n}" for part, n in found.unlabelled.items()]
    notes += [f"{part}: duplicate rows, left out: {n}" for part, n in found.again.items()]
    for a, b in sorted({(min(a, b), max(a, b)) for a in task.train for b in task.test if a != b}):
        if both := sorted(found.sources[a] & found.sources[b]):
            units = task.reader.unit + ("s" if len(both) > 1 else "")
            notes.append(f"leak: {len(both)} {units} in both {a} and {b}: {_some(both)}")
    trained = {label for item in found.items if item.part in task.train for label in item.labels}
    if idle := [name for name in classes if name not in trained]:
        notes.append(f"classes without training clips: {len(idle)} of {len(classes)}: {_some(idle)}")
    if len(classes) != task.classes:
        notes.append(f"{len(classes)} classes, the release has {task.classes}: a subset?")
    return notes


def _some(names: list[str]) -> str:
    """The first five, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
