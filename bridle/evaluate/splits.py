"""Which clips train a probe and which test it: k folds or one fixed split, stratified, groups kept on one side.

Shapes: N clips.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit

from bridle.errors import DataError, UsageError

Groups = Sequence[str] | Sequence[int] | np.ndarray


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of the train and the test clips, sorted."""

    train: np.ndarray
    test: np.ndarray


def group_names(paths: Sequence[str], pattern: str) -> list[str]:
    """The group of each original path: the first capture group of `pattern`, or its whole match when it has none.

    Raises:
        UsageError: not a regular expression.
        DataError: a path does not match.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group-by '{pattern}' is not a regular expression: {error}") from None
    groups = []
    for path in paths:
        match = regex.search(path)
        name = match and match.group(1 if regex.groups else 0)
        if name is None:
            raise DataError(
                f"--group-by '{pattern}' does not match '{path}'",
                "Each original path must match; its first (group) is the name of the group, such as the speaker.",
            )
        groups.append(name)
    return groups


def read_split_file(file: Path) -> dict[str, str]:
    """The part of each path from a CSV or TSV with the columns path (or file) and part (or split).

    Raises:
        DataError: naming the file and the line.
    """
    hint = "Expected: a first line `path,part`, then one line per file, with its path as stored by bridle shard."
    found: dict[str, str] = {}
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(
                text, delimiter="\t" if file.suffix.lower() in (".tsv", ".tab") else ",", strict=True
            )
            columns = {name.strip().lower(): name for name in reader.fieldnames or []}
            path = next((columns[name] for name in ("path", "file", "filename") if name in columns), None)
            part = next((columns[name] for name in ("part", "split") if name in columns), None)
            if path is None or part is None:
                raise DataError(f"{file} has the columns {','.join(columns)!r}", hint)
            for row in reader:
                if not row[path] or not row[part]:
                    raise DataError(f"{file}, line {reader.line_num}: expected a path and its part", hint)
                if None in row:  # more values than columns
                    raise DataError(f"{file}, line {reader.line_num}: expected {len(columns)} values", hint)
                name, side = PurePosixPath(row[path].strip()).as_posix(), row[part].strip()
                if found.setdefault(name, side) != side:
                    raise DataError(f"{file}, line {reader.line_num}: {name} is already in {found[name]}", hint)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}", hint) from error
    return found


def split_by_parts(
    parts: Sequence[str], train: Sequence[str], test: Sequence[str], *, folds: bool = False
) -> list[Split]:
    """One split, train and test by the parts of the clips; with `folds` each part of `test` in turn.

    Raises:
        DataError: nothing to train on, or nothing to test.
    """
    part_N = np.asarray(parts)
    pairs: list[tuple[Sequence[str], Sequence[str]]]
    pairs = [([one for one in train if one != fold], [fold]) for fold in test] if folds else [(train, test)]
    splits = [Split(np.flatnonzero(np.isin(part_N, a)), np.flatnonzero(np.isin(part_N, b))) for a, b in pairs]
    for split, (a, b) in zip(splits, pairs, strict=True):
        for rows, wanted in ((split.train, a), (split.test, b)):
            if not len(rows):
                there = ", ".join(sorted({*parts} - {""}))
                raise DataError(f"no readable clip in {' or '.join(wanted)}; found {there}")
    return splits


def make_splits(
    labels_N: np.ndarray,
    groups_N: Groups | None = None,
    *,
    folds: int = 5,
    test_share: float | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    stratified: bool = True,
) -> list[Split]:
    """Stratified folds, or a single split when `test_share` is given; no group is ever on both sides.

    Args:
        labels_N: class of each clip, 0 ... classes - 1.
        groups_N: what must stay together (a speaker's clips, a photo's takes).
        folds: number of folds; every clip is tested once.
        test_share: one split with about this share of clips in test instead of folds; with groups it is the nearest
            1 / n that whole groups allow.
        seed: decides the shuffle.
        names: class names for messages.
        stratified: each fold has each class; False where a clip has several, and `labels_N` is not looked at.

    Raises:
        DataError: fewer than two classes, or a class (or the groups) too small for the folds.
    """
    labels_N = np.asarray(labels_N)
    if test_share is not None and not 0.0 < test_share < 1.0:
        raise UsageError(f"--test-share {test_share} is not between 0 and 1")
    parts = folds if test_share is None else max(2, round(1 / test_share))
    if parts < 2:
        raise UsageError(f"--folds {folds}: at least 2 are needed", "For a single split, use --test-share 0.2.")
    if not stratified:
        return _split_any(len(labels_N), groups_N, parts, test_share, seed)
    called = [str(name) for name in (np.unique(labels_N) if names is None else names)]
    if groups_N is None:
        _check_classes(labels_N, folds if test_share is None else 2, called)
    else:
        groups_N = np.unique(np.asarray(groups_N), return_inverse=True)[1]
        _check_classes(labels_N, 2, called)
        _check_groups(labels_N, groups_N, parts, called)
    return _split(labels_N, groups_N, parts, test_share, seed)


def _split(
    labels_N: np.ndarray, groups_N: np.ndarray | None, parts: int, test_share: float | None, seed: int
) -> list[Split]:
    column = np.zeros((len(labels_N), 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # checked by us, per group
        if groups_N is not None:
            maker = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
            pairs = list(maker.split(column, labels_N, groups_N))
        elif test_share is not None:
            pairs = list(StratifiedShuffleSplit(1, test_size=test_share, random_state=seed).split(column, labels_N))
        else:
            pairs = list(StratifiedKFold(parts, shuffle=True, random_state=seed).split(column, labels_N))
    if test_share is not None:
        pairs = pairs[:1]
    splits = [Split(np.sort(train), np.sort(test)) for train, test in pairs]
    if any(len(split.test) == 0 or len(split.train) == 0 for split in splits):
        raise DataError("the groups are too unequal: a fold is empty", f"Use fewer than --folds {parts}.")
    return splits


def _split_any(clips: int, groups_N: Groups | None, parts: int, test_share: float | None, seed: int) -> list[Split]:
    group_N = np.arange(clips) if groups_N is None else np.unique(np.asarray(groups_N), return_inverse=True)[1]
    if (total := len(np.unique(group_N))) < parts:
        raise DataError(f"{total} groups do not fill {parts} folds", f"Use --folds {max(total, 2)} or fewer.")
    maker = GroupKFold(parts, shuffle=True, random_state=seed)
    pairs = list(maker.split(np.zeros((clips, 1)), groups=group_N))[: None if test_share is None else 1]
    return [Split(np.sort(train), np.sort(test)) for train, test in pairs]


def _check_classes(labels_N: np.ndarray, least: int, names: Sequence[str]) -> None:
    counts = np.bincount(labels_N, minlength=len(names))
    if np.count_nonzero(counts) < 2:
        raise DataError(
            f"{np.count_nonzero(counts)} class of clips; a probe needs at least two",
            "Lay the files out as DATA/CLASS/file, or shard them with --labels.",
        )
    small = [f"'{names[i]}' ({counts[i]})" for i in np.flatnonzero(counts).tolist() if counts[i] < least]
    if small:
        raise DataError(
            f"fewer clips than the {least} folds in class {', '.join(small[:5])}{' ...' if len(small) > 5 else ''}",
            "Use fewer --folds, or add clips to the class.",
        )


def _check_groups(labels_N: np.ndarray, groups_N: np.ndarray, folds: int, names: Sequence[str]) -> None:
    total = len(np.unique(groups_N))
    if total < folds:
        raise DataError(f"{total} groups do not fill {folds} folds", f"Use --folds {max(total, 2)} or fewer.")
    lonely = [names[i] for i in np.unique(labels_N).tolist() if len(np.unique(groups_N[labels_N == i])) < 2]
    if lonely:
        raise DataError(
            f"class '{lonely[0]}' occurs in one group only, so it cannot be in both training and test data",
            "Choose a --group-by whose groups span several classes.",
        )
