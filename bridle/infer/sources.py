"""Files, folders and shards -> one stream of sources, each the bytes of one file and what is known about it.

inputs --find_sources--> Source --windows_of--> views the patcher understands, with their times
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from bridle.errors import DataError, MediaError, UsageError
from bridle.media import decode, detect, probe
from bridle.patches.patcher import Patcher
from bridle.schema import Clip, MediaInfo, Modality
from bridle.sharding import Manifest, find_sets
from bridle.sharding.discover import media_below
from bridle.sharding.manifest import is_sharded
from bridle.storage import Location, Remote
from bridle.stream import SampleReader
from bridle.stream.read import media_info

_READING = threading.Lock()  # of tars: a reader is no business of two threads at once
Several = tuple[int, int]  # clips in time, crops of each
_CHUNK_BYTES = 256_000_000  # decoded; longer media are read piece by piece
_AUDIO_BYTES = 4  # a decoded sample
_PIXEL_BYTES = 3


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar that is read when it is needed."""

    reader: SampleReader
    sample: int

    def read_bytes(self) -> bytes:
        with _READING:
            return self.reader.content(self.sample)


@dataclass(slots=True)
class Source:
    """One file to be read.

    Attributes:
        path: how results and messages call it.
        data: where its bytes are, the bytes, a clip already decoded, or why there is nothing to read.
        info: what was measured when the file was sharded; None: nobody has looked at it yet.
        labels: class names, where there are any.
        part: what it is for (train, test ...), where something says so.
        span_s: the piece of the file that is meant, from and to; None: all of it.
        checked: it was decoded from beginning to end when it was sharded, in a process that might be lost.
    """

    path: str
    data: Location | bytes | Clip | Member | MediaError
    info: MediaInfo | None = None
    labels: tuple[str, ...] = ()
    part: str = ""
    span_s: tuple[float, float] | None = None
    checked: bool = False


@dataclass(slots=True)
class View:
    """One window of a file, ready for the patcher."""

    view: Any  # tensor, or where the cluster keeps it
    start_s: float
    step_s: float


def find_sources(inputs: Sequence[Location], modality: Modality, *, read: bool = True) -> tuple[Iterator[Source], int]:
    """Everything that `inputs` name, in order, and how many that is.

    Args:
        inputs: media files, folders of media (labels: the folder that holds the file), sets of shards or folders of
            such sets.
        modality: what the checkpoint was trained on.
        read: files in shards come with their bytes; without, each can be read in any order (`fetched`).

    Raises:
        DataError: an input that does not exist, holds nothing, or is of another modality (naming both).
    """
    if not inputs:
        raise UsageError("nothing to read", "name a file, a folder or a set of shards")
    found = [_find(path, modality, read) for path in inputs]
    if len(inputs) > 1:  # equal names below two folders stay apart
        found = [(_below(path, part), count) for path, (part, count) in zip(inputs, found, strict=True)]
    return (source for part, _ in found for source in part), sum(count for _, count in found)


def spread_sources(inputs: Sequence[Location], modality: Modality, most: int) -> tuple[list[Callable[[], Source]], int]:
    """At most that many of the sources that `find_sources` finds, evenly spread, each opened when it is called; and how
    many there are.

    Raises:
        DataError: as `find_sources`.
    """
    parts: list[tuple[int, Callable[[int], Source]]] = []
    for place in inputs:
        if place.exists() and is_sharded(place):
            for one in _sets_of(place, modality):
                parts.append((one.samples, partial(_shard_source, SampleReader([one]), _part_of(one, place))))
        else:
            found = list(_find(place, modality, True)[0])
            parts.append((len(found), found.__getitem__))
    total = sum(count for count, _ in parts)
    chosen, first = list[Callable[[], Source]](), 0
    wanted = [number * total // min(most, total) for number in range(min(most, total))]
    for count, opened in parts:
        chosen += [partial(opened, number - first) for number in wanted if first <= number < first + count]
        first += count
    return chosen, total


def _below(place: Location, sources: Iterator[Source]) -> Iterator[Source]:
    """The same sources, called by the input they came with."""
    for source in sources:
        yield source if source.path == str(place) else replace(source, path=str(place / source.path))


def _find(path: Location, modality: Modality, read: bool) -> tuple[Iterator[Source], int]:
    if not path.exists():
        raise DataError(f"{path} does not exist", "Name a file, a folder of media, or a set of shards.")
    if is_sharded(path):
        sets = _sets_of(path, modality)
        return _shard_sources(sets, path, read), sum(found.samples for found in sets)
    if path.is_file():
        kind = detect(path.name)
        if kind is not None:
            check_modality({kind}, modality, path)
        return iter([Source(str(path), path)]), 1
    files = _media_below(path, modality)
    return (Source(file, path / file, labels=_folder_label(file)) for file in files), len(files)


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


def check_modality(found: set[Modality], wanted: Modality, where: Location | str) -> None:
    """Raises DataError naming both when data are not what the checkpoint was trained on."""
    if wanted not in found:
        kinds = ", ".join(sorted(found))
        raise DataError(
            f"{where} holds {kinds}, but the checkpoint was trained on {wanted}",
            f"choose a checkpoint for {kinds} with --checkpoint, or other data",
        )


def _media_below(folder: Location, modality: Modality) -> list[str]:
    try:
        return media_below(folder, modality)
    except DataError as error:
        raise DataError(
            f"the checkpoint was trained on {modality}, but there are {error.message}", error.hint
        ) from None


def _shard_sources(sets: list[Manifest], below: Location, read: bool) -> Iterator[Source]:
    """Sample by sample, each with the name of its set's folder below the one that was asked for as its part."""
    for manifest in sets:
        reader, part = SampleReader([manifest]), _part_of(manifest, below)
        yield from (_shard_source(reader, part, sample, read) for sample in range(len(reader)))


def _part_of(manifest: Manifest, below: Location) -> str:
    return str(manifest.folder).removeprefix(str(below)).strip("/").partition("/")[0]


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


def windows_of(
    source: Source, patcher: Patcher, modality: Modality, rate_hz: int, several: Several | None = None
) -> Iterator[View]:
    """The consecutive windows of one file, or `several` views of it; long media are decoded piece by piece, so memory
    stays bounded.

    Raises:
        MediaError: the file cannot be decoded or is of another modality.
    """
    if isinstance(source.data, MediaError):
        raise source.data
    if isinstance(source.data, Clip):
        yield from _views(source.data, patcher, several)
        return
    source = fetched(source)
    info = info_of(source, modality)
    if several:
        yield from _several(source, info, patcher, rate_hz, several)
        return
    start_s: float | None = 0.0
    while start_s is not None:
        views, start_s = piece_of(source, info, patcher, rate_hz, start_s)
        yield from views


def _views(clip: Clip, patcher: Patcher, several: Several | None) -> list[View]:
    found = patcher.several(clip, *several) if several else patcher.windows(clip)
    step_s = patcher.step_of(clip)
    return [View(view, start_s, step_s) for view, start_s in found]


def _several(source: Source, info: MediaInfo, patcher: Patcher, rate_hz: int, several: Several) -> Iterator[View]:
    """Of media that do not fit into memory each clip is decoded by itself."""
    window_s, (clips, crops) = patcher.window_s(info), several
    if source.span_s or not window_s or not _piece_s(info, patcher, rate_hz):
        yield from _views(_decoded(source, info, rate_hz, source.span_s), patcher, several)
        return
    spare_s = (info.duration_s or 0.0) - window_s
    for n in range(clips):
        start_s = spare_s / 2 if clips == 1 else n * spare_s / (clips - 1)
        yield from _views(_decoded(source, info, rate_hz, (start_s, start_s + window_s)), patcher, (1, crops))


def _decoded(source: Source, info: MediaInfo, rate_hz: int, span_s: tuple[float, float] | None) -> Clip:
    assert not isinstance(source.data, Clip | MediaError | Member | Remote)
    window = None if span_s is None else (span_s[0], span_s[1] - span_s[0])
    return decode(source.data, info, source=source.path, rate_hz=rate_hz, window=window, checked=source.checked)


def training_view(source: Source, patcher: Patcher, modality: Modality, rate_hz: int, rng: torch.Generator) -> Tensor:
    """A random window of one file, cropped at random; of long media no more than that is decoded.

    Raises:
        MediaError: the file cannot be decoded or is of another modality.
    """
    if isinstance(source.data, MediaError):
        raise source.data
    if isinstance(source.data, Clip):
        return patcher.prepare(source.data, rng)
    source = fetched(source)
    info = info_of(source, modality)
    begin_s, end_s = source.span_s or (0.0, info.duration_s or 0.0)
    length_s, span_s = patcher.window_s(info), source.span_s
    if length_s and end_s - begin_s > length_s:
        start_s = begin_s + float(torch.rand((), generator=rng)) * (end_s - begin_s - length_s)
        span_s = start_s, start_s + length_s
    return patcher.prepare(_decoded(source, info, rate_hz, span_s), rng)


def info_of(source: Source, modality: Modality) -> MediaInfo:
    """What the shard says of a file that is not decoded yet, or its header.

    Raises:
        MediaError: the file cannot be read or is of another modality.
    """
    assert not isinstance(source.data, Clip | MediaError | Member | Remote)
    info = source.info or probe(source.data, PurePosixPath(source.path).name, modality)
    if info.modality is not modality:
        raise MediaError(f"is {info.modality}, but the checkpoint was trained on {modality}")
    return info


def piece_of(
    source: Source, info: MediaInfo, patcher: Patcher, rate_hz: int, start_s: float
) -> tuple[list[View], float | None]:
    """The windows of a part that fits into memory, and where the next part begins; None: it was the last one.

    Raises:
        MediaError: the file cannot be decoded.
    """
    piece_s = None if source.span_s else _piece_s(info, patcher, rate_hz)
    span_s = source.span_s if piece_s is None else (start_s, start_s + piece_s)
    views = _views(_decoded(source, info, rate_hz, span_s), patcher, None)
    if piece_s is None or start_s + piece_s >= (info.duration_s or 0.0) or len(views) < 2:
        return views, None
    # The last window may be cut short by the end of the piece: the next piece begins with it.
    return views[:-1], views[-1].start_s


def fetched(source: Source) -> Source:
    """The same with its bytes, if they are in remote storage or not yet read from a tar.

    Raises:
        MediaError: they cannot be had.
    """
    if not isinstance(source.data, Remote | Member):
        return source
    try:
        return replace(source, data=source.data.read_bytes())
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}") from error


def _piece_s(info: MediaInfo, patcher: Patcher, rate_hz: int) -> float | None:
    """Seconds to decode at once; None: the whole file."""
    window_s = patcher.window_s(info)
    if not window_s or not info.duration_s:
        return None
    samples = info.duration_s * rate_hz * _AUDIO_BYTES
    decoded = (info.frames or 0) * (info.height or 0) * (info.width or 0) * _PIXEL_BYTES or samples
    if decoded <= _CHUNK_BYTES:
        return None
    return max(3 * window_s, info.duration_s * _CHUNK_BYTES / decoded)
