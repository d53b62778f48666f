"""Files, folders and shards -> one stream of sources, each the bytes of one file and what is known about it.

inputs --find_sources--> Source --windows_of--> views the patcher understands, with their times
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

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

_CHUNK_BYTES = 256_000_000  # decoded; longer media are read piece by piece
_AUDIO_BYTES = 4  # a decoded sample
_PIXEL_BYTES = 3


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
    data: Location | bytes | Clip | MediaError
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


def find_sources(inputs: Sequence[Location], modality: Modality) -> tuple[Iterator[Source], int]:
    """Everything that `inputs` name, in order, and how many that is.

    Args:
        inputs: media files, folders of media (labels: the folder that holds the file), sets of shards or folders of
            such sets.
        modality: what the checkpoint was trained on.

    Raises:
        DataError: an input that does not exist, holds nothing, or is of another modality (naming both).
    """
    if not inputs:
        raise UsageError("nothing to read", "name a file, a folder or a set of shards")
    found = [_find(path, modality) for path in inputs]
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
            found = list(_find(place, modality)[0])
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


def _find(path: Location, modality: Modality) -> tuple[Iterator[Source], int]:
    if not path.exists():
        raise DataError(f"{path} does not exist", "Name a file, a folder of media, or a set of shards.")
    if is_sharded(path):
        sets = _sets_of(path, modality)
        return _shard_sources(sets, path), sum(found.samples for found in sets)
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


def _shard_sources(sets: list[Manifest], below: Location) -> Iterator[Source]:
    """Sample by sample, each with the name of its set's folder below the one that was asked for as its part."""
    for manifest in sets:
        reader, part = SampleReader([manifest]), _part_of(manifest, below)
        yield from (_shard_source(reader, part, sample) for sample in range(len(reader)))


def _part_of(manifest: Manifest, below: Location) -> str:
    return str(manifest.folder).removeprefix(str(below)).strip("/").partition("/")[0]


def _shard_source(reader: SampleReader, part: str, sample: int) -> Source:
    """One sample; what cannot be read comes along as the reason."""
    path = reader.index.key(sample)
    try:
        meta = reader.meta(sample)
        path = meta["path"]
        content = reader.content(sample)
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


def windows_of(source: Source, patcher: Patcher, modality: Modality, rate_hz: int) -> Iterator[View]:
    """The consecutive windows of one file; long media are decoded piece by piece, so memory stays bounded.

    Raises:
        MediaError: the file cannot be decoded or is of another modality.
    """
    if isinstance(source.data, MediaError):
        raise source.data
    if isinstance(source.data, Clip):
        step_s = patcher.step_of(source.data)
        yield from (View(view, start_s, step_s) for view, start_s in patcher.windows(source.data))
        return
    source = fetched(source)
    info = info_of(source, modality)
    start_s: float | None = 0.0
    while start_s is not None:
        views, start_s = piece_of(source, info, patcher, rate_hz, start_s)
        yield from views


def info_of(source: Source, modality: Modality) -> MediaInfo:
    """What the shard says of a file that is not decoded yet, or its header.

    Raises:
        MediaError: the file cannot be read or is of another modality.
    """
    assert not isinstance(source.data, Clip | MediaError | Remote)
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
    assert not isinstance(source.data, Clip | MediaError | Remote)
    piece_s = None if source.span_s else _piece_s(info, patcher, rate_hz)
    window = None if piece_s is None else (start_s, piece_s)
    if source.span_s:
        window = source.span_s[0], source.span_s[1] - source.span_s[0]
    clip = decode(source.data, info, source=source.path, rate_hz=rate_hz, window=window, checked=source.checked)
    step_s = patcher.step_of(clip)
    views = [View(view, begin_s, step_s) for view, begin_s in patcher.windows(clip)]
    if piece_s is None or start_s + piece_s >= (info.duration_s or 0.0) or len(views) < 2:
        return views, None
    # The last window may be cut short by the end of the piece: the next piece begins with it.
    return views[:-1], views[-1].start_s


def fetched(source: Source) -> Source:
    """The same with its bytes, if they are in remote storage.

    Raises:
        MediaError: they cannot be had.
    """
    if not isinstance(source.data, Remote):
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
