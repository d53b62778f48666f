"""What is wrong with a division and no reason to stop: each is reported as a warning.

Shapes: L classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridle.evaluate.dataset import Division, Labelled
from bridle.evaluate.labels import Truth
from bridle.evaluate.splits import Split, read_split_file
from bridle.inputs import Member

_MOST_READ = 2 * 10**9  # bytes, to find copies


def unmatched(paths: Sequence[str], division: Division) -> list[str]:
    """What to tell of a split file: lines that name no file, and files that no line names."""
    if not division.split_file:
        return []
    table, there = read_split_file(division.split_file), {*paths}
    gone, left_out = [path for path in table if path not in there], [path for path in paths if path not in table]
    causes = [(gone, "lines that match no readable file"), (left_out, "files that are not listed, left out")]
    return [f"{division.split_file}: {what}: {len(found)}, such as {found[0]}" for found, what in causes if found]


def faults(splits: Sequence[Split], truth: Truth, groups: Sequence[str] | None) -> list[str]:
    """What is wrong with some splits and no reason to stop: groups on both sides, tested classes never trained."""
    found = []
    for split in splits:
        if groups is not None and (both := {groups[n] for n in split.train} & {groups[n] for n in split.test}):
            some = f"{len(both)} groups, such as {min(both)!r}"
            found.append(f"{some}, are in both training and test data; the result is too optimistic")
        trained_L, tested_L = (truth.shares(rows).any(0) for rows in (split.train, split.test))
        never = [truth.classes[n] for n in (tested_L & ~trained_L).nonzero().flatten().tolist()]
        if never and len(split.train):
            found.append(f"classes with test clips but no training clips: {len(never)}: {', '.join(never[:5])}")
    return list(dict.fromkeys(found))


def copies(data: Labelled, paths: Sequence[str], splits: Sequence[Split]) -> str:
    """What to tell of files that are tested and lie, byte for byte, among those for training, too; "" of none.

    Of files on this machine only those of equal sizes are read, and of more than 2 GB of such none; shards know the
    checksums of theirs (CRC-32: of a hundred thousand files of one size a pair may agree by chance).
    """
    mark = _contents(data)
    found = dict[str, str]()
    for split in splits:
        trained = {mark[paths[n]]: paths[n] for n in split.train.tolist() if paths[n] in mark}
        found |= {paths[n]: trained[mark[paths[n]]] for n in split.test.tolist() if mark.get(paths[n]) in trained}
    if not found:
        return ""
    one, other = next(iter(found.items()))
    many = f"copies: {len(found)} test files are also training files, such as {one} and {other}"
    return f"{many}; the result is too optimistic"


def _contents(data: Labelled) -> dict[str, tuple[int, Any]]:
    """Size and checksum of each file that may have a copy, by its path."""
    local: dict[int, list[tuple[str, Path]]] = {}
    found: dict[str, tuple[int, Any]] = {}
    for source in data.open(False):
        if isinstance(source.data, Path) and not source.span_s:
            with suppress(OSError):
                local.setdefault(source.data.stat().st_size, []).append((source.path, source.data))
        elif isinstance(source.data, Member):
            place = source.data.reader.index.media(source.data.sample)
            if place.crc is not None:
                found[source.path] = place.bytes, place.crc
    alike = {size: files for size, files in local.items() if len(files) > 1}
    if sum(size * len(files) for size, files in alike.items()) <= _MOST_READ:
        for size, files in alike.items():
            for path, file in files:
                with suppress(OSError):
                    found[path] = size, hashlib.blake2b(file.read_bytes()).digest()
    return found
