"""What is evaluated: labelled files, the part that each belongs to, and how they are split.

    folder, shards or the release of a task --open_data--> Labelled --divide--> [Split]

The parts come from a file (`--split-file`), from a task's lists, or from sets or folders called `train`, `val` and
`test`; without any the files are divided into folds.

Shapes: N clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bridle import progress
from bridle.errors import DataError, UsageError
from bridle.evaluate.labels import Truth
from bridle.evaluate.splits import Split, group_names, make_splits, read_split_file, split_by_parts
from bridle.inputs import Source, find_sets, find_sources
from bridle.inputs.sets import is_sharded
from bridle.schema import Modality
from bridle.sharding.labels import Labels, labeller, read_labels
from bridle.storage import Location
from bridle.tasks import Task, read_task

FOLDS = 5
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
    **{f"fold{number}": f"fold{number}" for number in range(1, 101)},
}
LABELS_HINT = "Lay the files out as DATA/CLASS/file, or shard them with --labels."


@dataclass(frozen=True, slots=True)
class Division:
    """How the user wants the files divided; without a word the parts decide, and without those five folds.

    Attributes:
        folds: cross-validation.
        test_share: one split with about this share in test.
        split_file: table with the part of each path, see `splits.read_split_file`.
        group_by: regular expression over the original paths: what stays on one side, see `splits.group_names`.

    Raises:
        UsageError: they contradict each other, or the expression cannot be read. DataError: the table cannot.
    """

    folds: int | None = None
    test_share: float | None = None
    split_file: Path | None = None
    group_by: str | None = None

    def __post_init__(self) -> None:
        options = {"--folds": self.folds, "--test-share": self.test_share, "--split-file": self.split_file}
        if len(given := [name for name, value in options.items() if value is not None]) > 1:
            raise UsageError(f"{' and '.join(given)} are different ways to split", "Use one of them.")
        # What is wrong with them is said before the work, not after.
        if self.group_by:
            group_names([], self.group_by)
        if self.split_file:
            read_split_file(self.split_file)


@dataclass(slots=True)
class Labelled:
    """The files of a data set.

    Attributes:
        open: makes an iterator over all of them, as often as it is called; given False without reading shards.
        total: how many that is.
        fingerprint: other files, or files with other labels, have another one; "" where nothing says that they are the
            same (a folder of files in remote storage).
        task: whose release or shards they are.
        classes: in the official order; None: those that occur, sorted.
        missing: what a task's lists name and the folder lacks, by part.
        notes: for the user.
    """

    open: Callable[[bool], Iterator[Source]]
    total: int
    fingerprint: str
    task: Task | None = None
    classes: list[str] | None = None
    missing: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def sources(self, *, read: bool = True) -> Iterator[Source]:
        """Those with a label: without one a file cannot be judged, but where a label is one of several.

        Raises:
            DataError: in the end, if there was none.
        """
        some, left_out, came = self.task is not None and self.task.multi_label, list[str](), 0
        for source in self.open(read):
            if source.labels or some:
                came += 1
                yield source
            else:
                left_out.append(source.path)
        if not came:
            raise DataError(f"none of the {len(left_out)} files has a label", LABELS_HINT)
        if left_out:
            progress.warn(f"{len(left_out)} files without a label left out, such as {left_out[0]}")


def open_data(
    data: Location,
    modality: Modality,
    task: Task | None = None,
    *,
    labels: Labels = None,
    max_missing: float = 0.5,
) -> Labelled:
    """The files of a folder or of shards; of a task's release those that its lists name.

    Args:
        labels: of the files of a folder: a table, or "sidecar" (a JSON beside each); None: the folder that holds each.

    Raises:
        DataError: nothing there, of another modality, or not laid out as the task's release.
    """
    if task and task.modality is not modality:
        raise DataError(
            f"{task.title} is {task.modality}, but the checkpoint was trained on {modality}",
            f"Choose a checkpoint for {task.modality} with --checkpoint.",
        )
    if task and not (data.exists() and is_sharded(data)):
        if not isinstance(data, Path):
            raise DataError(
                f"{data} is in remote storage; releases are read from a local disk only",
                "Copy it, or shard it with --labels and --split.",
            )
        listing = read_task(task, data, max_missing=max_missing)
        items = [
            Source(item.path, data / item.path, labels=item.labels, part=item.part, span_s=item.span_s)
            for item in listing.items
        ]
        mark = _mark(("release", task.name, *(_identity(source) for source in items)))
        used = {*task.train, *task.test}
        missing = {part: gone for part, gone in listing.missing.items() if part in used}
        return Labelled(lambda read: iter(items), len(items), mark, task, listing.classes, missing, list(listing.notes))
    sources, total = find_sources([data], modality)
    if labels not in (None, "folder"):
        if task or is_sharded(data):
            raise UsageError(f"--labels: {data} has its own labels", "Leave it out.")
        notes = list[str]()
        named = [replace(source, labels=label) for source, label in _labelled(list(sources), data, labels, notes)]
        mark = _mark(("folder", *(_identity(source) for source in named))) if isinstance(data, Path) else ""
        return Labelled(lambda read: iter(named), total, mark, notes=notes)
    if is_sharded(data):
        shards = [(shard.sha256, str(one.folder)) for one in find_sets(data, modality) for shard in one.shards]
        mark = _mark(("shards", *shards))
    else:
        mark = _mark(("folder", *(_identity(source) for source in sources))) if isinstance(data, Path) else ""
    return Labelled(lambda read: find_sources([data], modality, read=read)[0], total, mark, task)


def _labelled(
    sources: list[Source], data: Location, labels: Labels, notes: list[str]
) -> Iterator[tuple[Source, tuple[str, ...]]]:
    """Each with the labels that the table or its sidecar says; () where none does.

    Raises:
        DataError: the table cannot be read, or names none of the files.
    """
    by_path: Mapping[str, str | list[str] | None]
    if labels == "sidecar":
        of = labeller(labels, data)
        by_path = {source.path: of(source.path) for source in sources}
    else:
        assert not isinstance(labels, str | None)
        by_path, more = read_labels(labels, (source.path for source in sources), data)
        notes += more
    for source in sources:
        label = by_path.get(source.path)
        yield source, () if label is None else (label,) if isinstance(label, str) else tuple(label)


def _mark(facts: tuple[Any, ...]) -> str:
    digest = hashlib.sha256()
    for one in facts:
        digest.update(repr(one).encode())
    return digest.hexdigest()


def _identity(source: Source) -> tuple[Any, ...]:
    """What a file of this machine is without reading it."""
    assert isinstance(source.data, Path)
    try:
        status = source.data.stat()
        size: Any = (status.st_size, status.st_mtime_ns)
    except OSError as error:
        size = error.errno
    return source.path, str(source.data.absolute()), size, source.labels, source.part, source.span_s


def divide(
    paths: Sequence[str],
    parts: Sequence[str],
    truth: Truth,
    division: Division,
    task: Task | None,
    seed: int,
    train: bool = True,
) -> tuple[list[Split], list[str] | None]:
    """The splits, and the group of each file if there are groups.

    Args:
        train: something is trained; else what is for training is left out, and without parts all files are tested.

    Raises:
        DataError: a part without a file, a class too small for the folds, or files that no part is known of.
    """
    groups = group_names(paths, division.group_by) if division.group_by else None
    if division.split_file:
        return _split_by_table(paths, division.split_file, train), groups
    asked = division.folds is not None or division.test_share is not None
    known = [] if asked else _known_parts(paths, parts)
    if not train and not asked:
        wanted = task.test if task else ("test",) if "test" in known else ("val",)
        tested = [n for n, part in enumerate(known) if part in wanted] or range(len(paths))
        return [Split(np.arange(0), np.asarray(tested))], groups
    if known:
        if task:
            return split_by_parts(known, task.train, task.test, folds=task.folds), groups
        if all(part.startswith("fold") for part in known):
            folds = sorted(set(known))
            return split_by_parts(known, folds, folds, folds=True), groups
        return split_by_parts(known, ["train"], ["test"] if "test" in known else ["val"]), groups
    if task and not asked:
        raise DataError(
            f"{task.name}: no train and test split",
            "Point --data at the release or at sets named train and test, or use --split-file, --folds, --test-share.",
        )
    y_N = np.zeros(len(truth), dtype=int) if truth.multi else truth.y.numpy()
    splits = make_splits(
        y_N,
        groups,
        folds=division.folds or FOLDS,
        test_share=division.test_share,
        seed=seed,
        names=truth.classes,
        stratified=not truth.multi,
    )
    return splits, groups


def _split_by_table(paths: Sequence[str], file: Path, train: bool) -> list[Split]:
    """Train (unless nothing is trained) and test as the table says; files that it does not name take no part.

    Raises:
        DataError: it names none of the files, a part that is none, or no file for one of the two sides.
    """
    table = read_split_file(file)
    if not any(path in table for path in paths):
        raise DataError(f"{file} matches none of the {len(paths)} files, such as {paths[0]}")
    if wrong := next((part for part in table.values() if part.lower() not in _PARTS), None):
        raise DataError(f"{file}: {wrong!r} is not a part", "Parts are train, val and test, or fold1, fold2 ...")
    known = [_PARTS[table[path].lower()] if path in table else "" for path in paths]
    folds = sorted({part for part in known if part.startswith("fold")})
    if folds and {*known} - {"", *folds}:
        raise DataError(
            f"{file} has folds and other parts: {', '.join(sorted({*known} - {''}))}", "Use either folds or parts."
        )
    try:
        if len(folds) == 1:
            raise DataError(f"{folds[0]} alone: at least two folds are needed")
        if folds:
            return split_by_parts(known, folds, folds, folds=True)
        test = "test" if "test" in known else "val"
        return split_by_parts(known, ["train"] if train else [test], [test])
    except DataError as error:
        raise DataError(f"{file}: {error.message}", "Parts are train, val and test, or fold1, fold2 ...") from error


def _known_parts(paths: Sequence[str], parts: Sequence[str]) -> list[str]:
    """The part of each file, by their sets' or their topmost folders' names; [] where not all have one."""
    for names in (parts, [PurePosixPath(path).parts[0] for path in paths]):
        found = [_PARTS.get(name.lower(), "") for name in names]
        if len({*found}) > 1 and all(found):
            return found
    return []
