"""Moving pictures: decord where it is right, FFmpeg (PyAV) elsewhere and where decord is missing or refuses.

Both give the same frames: upright, and placed by time on an even clock (see `pixels.py`). decord can crash or hang
on damaged files, so unknown files are measured in a process that may die.

Shapes: T frames, H, W, 3 channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import av
import numpy as np
import torch
from torch import Tensor

from bridle.errors import MediaError
from bridle.media.limits import ALONE, MAX_PIXELS, refuse_giant
from bridle.media.pixels import announced_fps, even_clock, has_times, is_cover, upright
from bridle.schema import MediaInfo, Modality

try:
    import decord
except (ImportError, OSError):  # no wheel for aarch64
    decord = None

_FAMILIES = {  # FFmpeg's demuxer -> suffixes that are true for it, the default first
    "mov": "mp4 m4v mov 3gp m4a", "matroska": "mkv webm mka", "avi": "avi", "mpeg": "mpg mpeg vob", "asf": "wmv wma",
    "mpegvideo": "mpg mpeg m1v m2v", "mpegts": "ts mts m2ts", "flv": "flv", "ogg": "ogv ogg oga opus", "aac": "aac",
    "amr": "amr", "ac3": "ac3", "wav": "wav", "mp3": "mp3", "gsm": "gsm", "caf": "caf",
}  # fmt: skip
_BATCH, _BATCH_BYTES = 32, 64_000_000  # frames decoded at once, fewer when they are large
_SEEK_S = 5.0  # shorter ways are decoded, which needs no trust in an index
_HEAD = 65536  # bytes in which a container says what it is


def probe(raw: bytes, hint: str, wanted: Modality | None = None) -> MediaInfo | None:
    """What FFmpeg finds: video when there are moving pictures, else sound; None when it knows nothing.

    With `wanted` audio, the sound track of a video where there is one.
    """
    try:
        with av.open(io.BytesIO(raw), "r", options=ALONE) as container:
            family = container.format.name.split(",")[0]
            if family not in _FAMILIES:  # single pictures, subtitles, playlists that name other files
                return None
            suffixes = _FAMILIES[family].split()
            pictures = [stream for stream in container.streams.video if not is_cover(stream)]
            sounds = container.streams.audio
            if pictures and not (wanted is Modality.AUDIO and sounds):
                return _picture_info(container, pictures[0], hint if hint in suffixes else suffixes[0])
            if sounds:
                duration_s = container.duration / av.time_base if container.duration else None
                default = suffixes[0] if pictures else "m4a" if family == "mov" else suffixes[-1]
                suffix = hint if hint in suffixes else default
                return MediaInfo(Modality.AUDIO, suffix, duration_s, float(sounds[0].rate or 0), sounds[0].channels)
    except (av.FFmpegError, AttributeError, ValueError):  # PyAV meets demuxers without a name on text and SVG
        return None
    return None


def measure(raw: bytes, info: MediaInfo) -> MediaInfo:
    """Decode every frame and count, with the decoder that training will use."""
    frames, height, width, fps = 0, 0, 0, info.rate_hz or 0.0
    for batch_THW3, fps in batches(raw, None):  # noqa: B007
        frames, (height, width) = frames + len(batch_THW3), batch_THW3.shape[1:3]
    if not frames:
        raise MediaError("holds no frames")
    return replace(info, duration_s=frames / fps, rate_hz=fps, frames=frames, height=height, width=width)


def decode(
    raw: bytes, info: MediaInfo, window: tuple[float, float] | None, *, with_decord: bool = True
) -> tuple[Tensor, float, float]:
    """The frames of the window as uint8 `(T, 3, H, W)`, frames a second, and where the first one lies in seconds.

    In memory the three channels of a pixel stay together, as they are decoded: resizing reads them so in half the time.
    """
    pieces, fps, size = [], 1.0, 0
    first = 3 * (info.height or 0) * (info.width or 0)
    for batch_THW3, fps in batches(raw, window, picture_bytes=first, with_decord=with_decord):  # noqa: B007
        pieces.append(batch_THW3)
        size += batch_THW3.nbytes
        refuse_giant(size)
    if not pieces:
        raise MediaError("holds no frames" if window is None else f"holds no frames at {window[0]:.2f} s")
    clip_THW3 = torch.from_numpy(np.concatenate(pieces) if len(pieces) > 1 else pieces[0])
    return clip_THW3.permute(0, 3, 1, 2), fps, _span(window, fps)[0] / fps


def batches(
    raw: bytes, window: tuple[float, float] | None, *, picture_bytes: int = 0, with_decord: bool = True
) -> Iterator[tuple[np.ndarray, float]]:
    """uint8 `(T, H, W, 3)` pieces of the window and frames a second; one picture first if its size is not known."""
    done = 0
    if with_decord and decord is not None and _suits_decord(raw):
        try:
            for batch_THW3, fps in _decord_batches(raw, window, picture_bytes):
                yield batch_THW3, fps
                done += len(batch_THW3)
            return
        except Exception:  # decord raises its own kinds, on some widths that are no multiple of 32 (48) too
            pass
    yield from _ffmpeg_batches(raw, window, done)


def _suits_decord(raw: bytes) -> bool:
    """Whether the container is one that decord 0.6 gets right.

    It miscounts in streams without an index (MPEG-TS comes out a frame late), and turns pictures upright by the
    display matrix of MP4 but not by that of Matroska (element 0x7675 with a float of 4 or 8 bytes).
    """
    head = raw[:_HEAD]
    if head[:4] == b"\x1aE\xdf\xa3":
        return b"\x76\x75\x84" not in head and b"\x76\x75\x88" not in head
    return head[8:12] == b"AVI " or head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}


def _decord_batches(
    raw: bytes, window: tuple[float, float] | None, picture_bytes: int
) -> Iterator[tuple[np.ndarray, float]]:
    reader = decord.VideoReader(io.BytesIO(raw), num_threads=1)
    header_fps = float(reader.get_avg_fps())
    times_T = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    if not 0 < header_fps < 1e4 or -1e6 < times_T[0] < -1e-3:
        raise MediaError("no rate, or frames that the edit list hides: decord would show them")
    fps, shown_T = even_clock(times_T, header_fps)
    first, last = _span(window, fps)
    shown_T = shown_T[first:last]
    at, step = 0, _batch(picture_bytes) if picture_bytes else 1
    while at < len(shown_T):
        batch_THW3 = reader.get_batch(shown_T[at : at + step].tolist()).asnumpy()
        yield batch_THW3, fps
        at, step = at + len(batch_THW3), _batch(batch_THW3[0].nbytes)


def _ffmpeg_batches(raw: bytes, window: tuple[float, float] | None, done: int) -> Iterator[tuple[np.ndarray, float]]:
    """The same, leaving out the first `done` frames of the window."""
    fps, shown_T, pts_T = _ffmpeg_clock(raw)
    first, last = _span(window, fps)
    shown_T = shown_T[first + done : last]
    if not len(shown_T):
        return
    with av.open(io.BytesIO(raw), "r", options=ALONE) as container:
        stream = _pictures(container)
        width, height = stream.width, stream.height  # kept when the size changes on the way, as decord does
        pieces: list[np.ndarray] = []
        tick, before = 0, None
        for number, frame in _numbered(container, stream, pts_T, int(shown_T[0]), fps):
            gap, end = np.searchsorted(shown_T, number, "left"), np.searchsorted(shown_T, number, "right")
            for ticking in range(tick, end):  # where a frame is missing, the one before stays on the screen
                pieces.append(upright(frame if ticking >= gap or before is None else before, width, height))
                if len(pieces) >= _batch(pieces[0].nbytes):
                    yield np.stack(pieces), fps
                    pieces = []
            tick, before = max(tick, int(end)), frame
            if tick == len(shown_T):
                break
        if pieces:
            yield np.stack(pieces), fps


def _ffmpeg_clock(raw: bytes) -> tuple[float, np.ndarray, np.ndarray | None]:
    """Rate and frame on the screen at each tick, and the time stamps in the order of showing, if they can be used."""
    with av.open(io.BytesIO(raw), "r", options=ALONE) as container:
        stream = _pictures(container)
        fps = announced_fps(stream)
        stamps = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
        if None in stamps or not has_times(container, stream):
            return fps, np.arange(len(stamps)), None
        pts_T = np.sort(np.array(stamps, np.int64))
        return *even_clock(pts_T * float(stream.time_base or 1), fps), pts_T


def _numbered(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    pts_T: np.ndarray | None,
    first: int,
    fps: float,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames and their numbers, from `first` or from somewhere before it."""
    frames, number = container.decode(stream), -1
    if pts_T is not None and first > _SEEK_S * fps:
        second = round(1 / float(stream.time_base or 1))  # before it: the index of MP4 is in the order of decoding
        container.seek(int(pts_T[first]) - second, stream=stream)
        frames = container.decode(stream)
        head = next(frames, None)
        if head is not None and head.pts is not None and head.pts <= pts_T[first]:
            frames = chain([head], frames)
        else:
            container.seek(int(pts_T[0]), stream=stream)
            frames = container.decode(stream)
    for frame in frames:
        number += 1
        if pts_T is not None and frame.pts is not None:
            number = max(number, int(np.searchsorted(pts_T, frame.pts)))
        yield number, frame


def _pictures(container: av.container.InputContainer) -> av.VideoStream:
    for stream in container.streams.video:
        if not is_cover(stream):
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            return stream
    raise MediaError("holds no moving pictures")


def _batch(picture_bytes: int) -> int:
    """Frames of this size to decode at once."""
    return max(1, min(_BATCH, _BATCH_BYTES // picture_bytes))


def _span(window: tuple[float, float] | None, fps: float) -> tuple[int, int | None]:
    """First frame and the one after the last."""
    if window is None:
        return 0, None
    first = max(0, round(window[0] * fps))
    return first, first + max(1, round(window[1] * fps))


def _picture_info(container: av.container.InputContainer, stream: av.VideoStream, suffix: str) -> MediaInfo:
    fps = announced_fps(stream)
    duration_s = container.duration / av.time_base if container.duration else None
    frames = stream.frames or (round(duration_s * fps) if duration_s else None)
    height, width = stream.height, stream.width
    if height * width <= MAX_PIXELS and _is_turned(container, stream):
        height, width = width, height
    return MediaInfo(Modality.VIDEO, suffix, duration_s, fps, None, frames, height, width)


def _is_turned(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the display matrix swaps height and width; PyAV tells it of decoded frames alone."""
    try:
        return round(next(container.decode(stream)).rotation / 90) % 2 == 1
    except (av.FFmpegError, StopIteration):
        return False
