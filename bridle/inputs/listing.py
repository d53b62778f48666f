"""What inputs name -> a listing: each file under its number, so that any part of them can be read by anybody.

files, folders, shards --Listing--> Source
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from bridle import progress
from bridle.archive import Manifest
from bridle.errors import DataError, MediaError, UsageError
from bridle.inputs.discover import Found, check_raw, media_below
from bridle.inputs.sets import find_sets, is_sharded
from bridle.inputs.sources import Member, Source, check_modality
from bridle.media import detect
from bridle.schema import Modality
from bridle.storage import Location
from bridle.stream import SampleReader
from bridle.stream.read import media_info

ITEMS = 512  # files of a part of the work at most: minutes, and thousands of parts for a million files
_PART_BYTES = 256 << 20  # of media
_UNKNOWN = 64  # files of a part where nothing says how large they are
_LOOKED_AT = 1000  # files whose mean size is taken for that of all


class Listing:
    """Everything that some inputs name, each file under its number, in the order of the inputs.

    Args:
        inputs: media files, folders of media (labels: the folder that holds the file), sets of shards or folders of
            such sets.
        modality: what the checkpoint was trained on.
        accounting: nothing is passed over in silence and no two files of a folder share a name: names of media that are
            no files, and folders that cannot be read, come along (to fail), and samples of several sets are called
            SET/path.

    Raises:
        DataError: an input that does not exist, holds nothing, or is of another modality (naming both).
    """

    def __init__(
        self,
        inputs: Sequence[Location],
        modality: Modality,
        *,
        accounting: bool = False,
    ) -> None:
        if not inputs:
            raise UsageError("nothing to read", "Name a file, a folder or a set of shards.")
        self._parts: list[_File | _Files | _Samples] = []
        for place in inputs:
            below = place if len(inputs) > 1 else None  # equal names below two folders stay apart
            self._parts += _find(place, modality, below, accounting)
        if len(inputs) > 1:
            named = sum(map(len, self._parts))
            self._parts = list(_once(self._parts))
            if twice := named - sum(map(len, self._parts)):
                progress.note(f"duplicate files count once each: {twice}")
        self._first = list(accumulate((len(part) for part in self._parts), initial=0))

    def __len__(self) -> int:
        return self._first[-1]

    def source(self, number: int, *, read: bool = False) -> Source:
        """One file; of shards with its bytes if they are to be `read`, else `fetched` when they are needed."""
        which = bisect_right(self._first, number) - 1
        return replace(self._parts[which].source(number - self._first[which], read), number=number)

    def fingerprint(self) -> str:
        """Other files, or files that were changed, have another one (in object storage: other names)."""
        digest = hashlib.sha256()
        for part in self._parts:
            for mark in part.marks():
                digest.update(repr(mark).encode())
        return digest.hexdigest()

    def part_files(self) -> int:
        """How many files make a part of the work: the same for the same files, whoever does it."""
        known = [(part.bytes(), len(part)) for part in self._parts]
        if any(size is None for size, _ in known):
            return _UNKNOWN
        mean = sum(size or 0 for size, _ in known) / max(1, len(self))
        return max(1, min(ITEMS, int(_PART_BYTES / max(mean, 1))))


@dataclass(frozen=True, slots=True)
class _Files:
    """Media files below one folder, or a single one (then it is called by its whole path)."""

    folder: Location
    names: list[str]
    called: Location | None  # by what input; None: by their paths below the folder
    unreadable: Mapping[str, str] = field(default_factory=dict)  # and why

    def __len__(self) -> int:
        return len(self.names)

    def source(self, number: int, read: bool) -> Source:
        name = self.names[number]
        path = name if self.called is None else str(self.called / name)
        data = MediaError(self.unreadable[name]) if name in self.unreadable else self.folder / name
        return Source(path, data, labels=_folder_label(name))

    def bytes(self) -> float | None:
        """About as many; None: nothing says it."""
        if not isinstance(self.folder, Path):
            return None
        some = self.names[:: -(-len(self.names) // _LOOKED_AT)]
        return sum(map(_size, (self.folder / name for name in some))) / max(1, len(some)) * len(self.names)

    def marks(self) -> Iterator[Any]:
        for name in self.names:
            place = self.folder / name
            try:
                status = place.stat() if isinstance(place, Path) else None
                yield name, status and (status.st_size, status.st_mtime_ns)
            except OSError as error:
                yield name, error.errno


@dataclass(frozen=True, slots=True)
class _File:
    """A media file that is an input itself."""

    place: Location

    def __len__(self) -> int:
        return 1

    def source(self, number: int, read: bool) -> Source:
        return Source(str(self.place), self.place)

    def bytes(self) -> float | None:
        return _size(self.place) if isinstance(self.place, Path) else None

    def marks(self) -> Iterator[Any]:
        return _Files(self.place.parent, [self.place.name], None).marks()


@dataclass(frozen=True, slots=True)
class _Samples:
    """One set of shards."""

    manifest: Manifest
    reader: SampleReader
    part: str
    called: Location | PurePosixPath | None

    def __len__(self) -> int:
        return len(self.reader)

    def source(self, number: int, read: bool) -> Source:
        source = _shard_source(self.reader, self.part, number, read)
        return source if self.called is None else replace(source, path=str(self.called / source.path))

    def bytes(self) -> float | None:
        return self.manifest.bytes

    def marks(self) -> Iterator[Any]:
        return ((shard.file, shard.samples, shard.sha256) for shard in self.manifest.shards)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # said when it is read
        return 0


def _find(
    place: Location, modality: Modality, called: Location | None, accounting: bool
) -> Sequence[_File | _Files | _Samples]:
    if not place.exists():
        raise DataError(f"{place} does not exist", "Name a file, a folder of media, or a set of shards.")
    if is_sharded(place):
        sets = _sets_of(place, modality)
        apart = accounting and len(sets) > 1
        return [_samples(one, set_below(one, place), called, apart) for one in sets]
    if place.is_file():
        kind = detect(place.name)
        if kind is not None:
            check_modality({kind}, modality, place)
        return [_File(place)]
    found = Found()
    names = _media_below(place, modality, found)
    unreadable = {
        one["file"]: one["reason"]
        for one in (found.rejects if accounting else ())
        if one["file"].endswith("/") or detect(one["file"]) is modality
    }
    return [_Files(place, sorted([*names, *unreadable], key=os.fsencode), called, unreadable)]


def _once(parts: list[_File | _Files | _Samples]) -> Iterator[_File | _Files | _Samples]:
    seen = set[Location]()
    for part in parts:
        if isinstance(part, _Files):
            names = [name for name in part.names if part.folder / name not in seen]
            seen.update(part.folder / name for name in names)
            if names:
                yield replace(part, names=names)
        elif (place := part.place if isinstance(part, _File) else part.manifest.place) not in seen:
            seen.add(place)
            yield part


def find_sources(inputs: Sequence[Location], modality: Modality, *, read: bool = True) -> tuple[Iterator[Source], int]:
    """Everything that `inputs` name, in order, and how many that is; see `Listing`.

    Args:
        read: files in shards come with their bytes; without, each can be read in any order (`fetched`).
    """
    listing = Listing(inputs, modality)
    return (listing.source(number, read=read) for number in range(len(listing))), len(listing)


def spread_sources(inputs: Sequence[Location], modality: Modality, most: int) -> tuple[list[Callable[[], Source]], int]:
    """At most that many of the files of a `Listing`, evenly spread, each opened when it is called; and how many there
    are."""
    listing = Listing(inputs, modality)
    chosen = min(most, len(listing))
    numbers = [number * len(listing) // chosen for number in range(chosen)]
    return [partial(listing.source, number, read=True) for number in numbers], len(listing)


def _sets_of(path: Location, modality: Modality) -> list[Manifest]:
    """The sets of that modality; where there are none, the error names both."""
    try:
        return find_sets(path, modality)
    except DataError:
        check_modality({found.modality for found in find_sets(path)}, modality, path)
        raise


def _folder_label(file: str) -> tuple[str, ...]:
    name = PurePosixPath(file).parent.name
    return (name,) if name else ()


def _media_below(folder: Location, modality: Modality, found: Found) -> list[str]:
    check_raw(folder)
    try:
        return media_below(folder, modality, found)
    except DataError as error:
        raise DataError(f"the checkpoint was trained on {modality}; {error.message}", error.hint) from None


def set_below(manifest: Manifest, place: Location) -> str:
    """Where a set that was found below `place` lies in it; "" if it is the place itself."""
    return str(manifest.folder).removeprefix(str(place)).strip("/")


def _samples(manifest: Manifest, name: str, called: Location | None, apart: bool) -> _Samples:
    """Of the set of that name, which is a part of those of its samples' names if it is to be told `apart`."""
    by = (called or PurePosixPath()) / name if apart else called
    return _Samples(manifest, SampleReader([manifest]), name.partition("/")[0], by)


def _shard_source(reader: SampleReader, part: str, sample: int, read: bool = True) -> Source:
    """One sample; what cannot be read comes along as the reason."""
    path = reader.index.key(sample)
    try:
        meta = reader.meta(sample)
        path = meta["path"]
        content = reader.content(sample) if read else Member(reader, sample)
    except MediaError as error:
        return Source(path, error)
    labels = meta.get("labels") or ([meta["label"]] if meta.get("label") is not None else [])
    return Source(
        path,
        content,
        media_info(meta),
        labels=tuple(map(str, labels)),
        part=part,
        checked=reader.index.checked(sample),
    )
