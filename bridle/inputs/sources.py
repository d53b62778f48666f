"""One file: its bytes, wherever they are, and what is known about it.

inputs --Listing--> Source --windows_of--> views the patcher understands, with their times
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from bridle.errors import DataError, MediaError
from bridle.media import decode, probe
from bridle.patches.patcher import Patcher
from bridle.schema import Clip, MediaInfo, Modality
from bridle.storage import Location, Remote
from bridle.stream import SampleReader

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
        number: in its listing.
    """

    path: str
    data: Location | bytes | Clip | Member | MediaError
    info: MediaInfo | None = None
    labels: tuple[str, ...] = ()
    part: str = ""
    span_s: tuple[float, float] | None = None
    checked: bool = False
    number: int = 0


@dataclass(slots=True)
class View:
    """One window of a file, ready for the patcher."""

    view: Any  # tensor, or where the cluster keeps it
    start_s: float
    step_s: float
    notice: str = ""  # what decoding lost


def check_modality(found: set[Modality], wanted: Modality, where: Location | str) -> None:
    """Check that data have the checkpoint's modality; raises DataError naming both."""
    if wanted not in found:
        kinds = ", ".join(sorted(found))
        raise DataError(
            f"{where} holds {kinds}, but the checkpoint was trained on {wanted}",
            f"Choose a checkpoint for {kinds} with --checkpoint, or other data.",
        )


def windows_of(source: Source, patcher: Patcher, modality: Modality, several: Several | None = None) -> Iterator[View]:
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
    info = info_of(source, modality, patcher)
    if several:
        yield from _several(source, info, patcher, several)
        return
    start_s: float | None = 0.0
    while start_s is not None:
        views, start_s = piece_of(source, info, patcher, start_s)
        yield from views


def _views(clip: Clip, patcher: Patcher, several: Several | None) -> list[View]:
    found = patcher.several(clip, *several) if several else patcher.windows(clip)
    step_s = patcher.step_of(clip)
    return [View(view, start_s, step_s, clip.notice) for view, start_s in found]


def _several(source: Source, info: MediaInfo, patcher: Patcher, several: Several) -> Iterator[View]:
    """Of media that do not fit into memory each clip is decoded by itself."""
    window_s, (clips, crops) = patcher.window_s(info), several
    if source.span_s or not window_s or not _piece_s(info, patcher):
        yield from _views(_decoded(source, info, patcher, source.span_s), patcher, several)
        return
    spare_s = (info.duration_s or 0.0) - window_s
    for n in range(clips):
        start_s = spare_s / 2 if clips == 1 else n * spare_s / (clips - 1)
        clip = _decoded(source, info, patcher, (start_s, start_s + window_s))
        yield from _views(clip, patcher, (1, crops))


def _decoded(source: Source, info: MediaInfo, patcher: Patcher, span_s: tuple[float, float] | None) -> Clip:
    assert not isinstance(source.data, Clip | MediaError | Member | Remote)
    window = None if span_s is None else (span_s[0], span_s[1] - span_s[0])
    return decode(
        source.data,
        info,
        source=source.path,
        rate_hz=patcher.rate_hz,
        window=window,
        checked=source.checked,
        pixel_rules=patcher.pixel_rules,
    )


def training_view(source: Source, patcher: Patcher, modality: Modality, rng: torch.Generator) -> Tensor:
    """A random window of one file, cropped at random; of long media no more than that is decoded.

    Raises:
        MediaError: the file cannot be decoded or is of another modality.
    """
    if isinstance(source.data, MediaError):
        raise source.data
    if isinstance(source.data, Clip):
        return patcher.prepare(source.data, rng)
    source = fetched(source)
    info = info_of(source, modality, patcher)
    begin_s, end_s = source.span_s or (0.0, info.duration_s or 0.0)
    length_s, span_s = patcher.window_s(info), source.span_s
    if length_s and end_s - begin_s > length_s:
        start_s = begin_s + float(torch.rand((), generator=rng)) * (end_s - begin_s - length_s)
        span_s = start_s, start_s + length_s
    return patcher.prepare(_decoded(source, info, patcher, span_s), rng)


def info_of(source: Source, modality: Modality, patcher: Patcher) -> MediaInfo:
    """What the shard says of a file that is not decoded yet, or its header; where it names no channel, the patcher's.

    Raises:
        MediaError: the file cannot be read or is of another modality.
    """
    assert not isinstance(source.data, Clip | MediaError | Member | Remote)
    info = source.info or probe(source.data, PurePosixPath(source.path).name, modality)
    info = replace(info, channel=info.channel or patcher.channel)
    if info.modality is not modality:
        raise MediaError(f"is {info.modality}, but the checkpoint was trained on {modality}")
    return info


def piece_of(source: Source, info: MediaInfo, patcher: Patcher, start_s: float) -> tuple[list[View], float | None]:
    """The windows of a part that fits into memory, and where the next part begins; None: it was the last one.

    Raises:
        MediaError: the file cannot be decoded.
    """
    piece_s = None if source.span_s else _piece_s(info, patcher)
    span_s = source.span_s if piece_s is None else (start_s, start_s + piece_s)
    views = _views(_decoded(source, info, patcher, span_s), patcher, None)
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


def _piece_s(info: MediaInfo, patcher: Patcher) -> float | None:
    """Seconds to decode at once; None: the whole file."""
    window_s = patcher.window_s(info)
    if not window_s or not info.duration_s:
        return None
    samples = info.duration_s * patcher.rate_hz * _AUDIO_BYTES
    decoded = (info.frames or 0) * (info.height or 0) * (info.width or 0) * _PIXEL_BYTES or samples
    if decoded <= _CHUNK_BYTES:
        return None
    return max(3 * window_s, info.duration_s * _CHUNK_BYTES / decoded)
