"""Moving pictures: decord, and FFmpeg (PyAV) where decord is missing or refuses.

decord can crash or hang on damaged files, so unknown files are measured in a process that may die.

Shapes: T frames, H, W, 3 channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import av
import numpy as np
import torch
from torch import Tensor

from bridle.errors import MediaError
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
_BATCH = 16


def probe(raw: bytes, hint: str) -> MediaInfo | None:
    """What FFmpeg finds: video when there are moving pictures, else sound; None when it knows nothing."""
    try:
        with av.open(io.BytesIO(raw), "r") as container:
            family = container.format.name.split(",")[0]
            if family not in _FAMILIES:  # single pictures, subtitles, playlists that name other files
                return None
            suffixes = _FAMILIES[family].split()
            pictures = [stream for stream in container.streams.video if not _is_cover(stream)]
            if pictures:
                return _picture_info(container, pictures[0], hint if hint in suffixes else suffixes[0])
            if container.streams.audio:
                sound = container.streams.audio[0]
                duration_s = container.duration / av.time_base if container.duration else None
                suffix = hint if hint in suffixes else "m4a" if family == "mov" else suffixes[-1]
                return MediaInfo(Modality.AUDIO, suffix, duration_s, float(sound.rate or 0), sound.channels)
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


def decode(raw: bytes, window: tuple[float, float] | None, *, with_decord: bool = True) -> tuple[Tensor, float, float]:
    """The frames of the window as uint8 `(T, 3, H, W)`, frames a second, and where the first one lies in seconds."""
    pieces, fps = [], 1.0
    for batch_THW3, fps in batches(raw, window, with_decord=with_decord):  # noqa: B007
        pieces.append(torch.from_numpy(batch_THW3).permute(0, 3, 1, 2))
    if not pieces:
        raise MediaError("holds no frames" if window is None else f"holds no frames at {window[0]:.2f} s")
    return torch.cat(pieces).contiguous(), fps, _span(window, fps)[0] / fps


def batches(
    raw: bytes, window: tuple[float, float] | None, *, with_decord: bool = True
) -> Iterator[tuple[np.ndarray, float]]:
    """uint8 `(T, H, W, 3)` pieces of the window and frames a second."""
    reader = _decord_reader(raw) if with_decord else None
    done = 0
    if reader is not None:
        fps = float(reader.get_avg_fps())
        done, last = _span(window, fps)
        last = len(reader) if last is None else min(last, len(reader))
        try:
            while done < last:
                batch_THW3 = reader.get_batch(list(range(done, min(done + _BATCH, last)))).asnumpy()
                yield batch_THW3, fps
                done += len(batch_THW3)
            return
        except Exception:  # decord raises its own kinds, on some widths that are no multiple of 32 (48) too
            pass
    yield from _ffmpeg_batches(raw, window, done)


def _decord_reader(raw: bytes) -> decord.VideoReader | None:
    if decord is None:
        return None
    try:
        reader = decord.VideoReader(io.BytesIO(raw), num_threads=1)
        return reader if len(reader) and 0 < reader.get_avg_fps() < 1e4 else None
    except Exception:  # FFmpeg gets its turn and says why
        return None


def _ffmpeg_batches(raw: bytes, window: tuple[float, float] | None, done: int) -> Iterator[tuple[np.ndarray, float]]:
    """The same from frame number `done` on."""
    with av.open(io.BytesIO(raw), "r") as container:
        if not container.streams.video:
            raise MediaError("holds no moving pictures")
        stream = container.streams.video[0]
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        first, last = _span(window, fps)
        first = max(first, done)
        at = 0
        if first > 5 * fps:  # shorter ways are decoded, which needs no trust in time stamps
            container.seek(int((first / fps - 1.0) * av.time_base))
            at = -1
        pieces: list[np.ndarray] = []
        for frame in container.decode(stream):
            at = round((frame.time or 0.0) * fps) if at < 0 else at
            if last is not None and at >= last:
                break
            if at >= first:
                pieces.append(frame.to_ndarray(format="rgb24"))
            at += 1
            if len(pieces) == _BATCH:
                yield np.stack(pieces), fps
                pieces = []
        if pieces:
            yield np.stack(pieces), fps


def _span(window: tuple[float, float] | None, fps: float) -> tuple[int, int | None]:
    """First frame and the one after the last."""
    if window is None:
        return 0, None
    first = max(0, round(window[0] * fps))
    return first, first + max(1, round(window[1] * fps))


def _is_cover(stream: av.VideoStream) -> bool:
    """Cover art in a sound file is a video stream of one picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _picture_info(container: av.container.InputContainer, stream: av.VideoStream, suffix: str) -> MediaInfo:
    fps = float(stream.average_rate or stream.guessed_rate or 25)
    duration_s = container.duration / av.time_base if container.duration else None
    frames = stream.frames or (round(duration_s * fps) if duration_s else None)
    return MediaInfo(Modality.VIDEO, suffix, duration_s, fps, None, frames, stream.height, stream.width)
