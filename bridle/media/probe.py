"""What a file is: candidates by suffix (fast, for folders), the truth by content.

`probe` reads headers. Headers lie (a truncated AVI announces every frame it once had, an MPEG-1 stream 0.04 s for
79 frames), so `check` decodes everything and measures. Decoders can crash or hang on damaged files: a caller
that meets unknown files runs `check` in a process that it can lose (`bridle.decoding.pool`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bridle.errors import MediaError
from bridle.media import audio, image
from bridle.media.limits import MAX_BYTES, refuse_absurd
from bridle.schema import MediaInfo, Modality
from bridle.storage import opened

SUFFIXES: dict[Modality, frozenset[str]] = {
    Modality.AUDIO: frozenset(
        "wav wave flac ogg oga opus mp3 m4a aac aif aiff aifc au snd caf gsm g722 w64 rf64 wma amr mka ac3".split()
    ),
    Modality.IMAGE: frozenset("jpg jpeg jpe jfif png webp bmp gif tif tiff ppm pgm pbm pnm jp2 avif".split()),
    Modality.VIDEO: frozenset("mp4 m4v mov avi mkv webm mpg mpeg m1v m2v ts mts m2ts wmv flv 3gp ogv vob".split()),
}


def detect(path: str | os.PathLike[str], *, sound_tracks: bool = False) -> Modality | None:
    """The modality that a file's name suggests, None when it is not media; the content may disagree.

    With `sound_tracks` a video is a file of audio.
    """
    suffix = _suffix(os.fspath(path))
    if sound_tracks and suffix in SUFFIXES[Modality.VIDEO]:
        return Modality.AUDIO
    for modality, suffixes in SUFFIXES.items():
        if suffix in suffixes:
            return modality
    return None


@contextmanager
def reasons() -> Iterator[None]:
    """Makes a `MediaError` of whatever third-party decoders raise on damaged files: one short line."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise MediaError(f"cannot be decoded: {text[:160] or type(error).__name__}") from error


@reasons()
def probe(data: bytes | Path, name: str, wanted: Modality | None = None) -> MediaInfo:
    """Read the headers of one file.

    Args:
        data: the file's bytes, or where they are.
        name: file name or path; a hint where content cannot tell (headerless G.722, `.mov` against `.mp4`).
        wanted: what the caller is after. A video with audio is audio to who wants audio: then the result says
            `Modality.AUDIO` with the suffix of the video, and `decode` reads the audio track from the same bytes.

    Raises:
        MediaError: with the reason alone, when this is not media that can be decoded.
    """
    raw = read_bytes(data)
    hint = _suffix(name)
    info = image.probe(raw) or audio.probe(raw)
    if info is None:
        from bridle.media import video

        info = video.probe(raw, hint, wanted) or audio.probe_headerless(raw, hint)
        if info and info.modality is Modality.AUDIO:  # many headers give an estimate, or nothing
            info = replace(info, duration_s=audio.duration_by_packets(raw) or info.duration_s)
    if info is None:
        raise MediaError("unknown audio, image or video format")
    if wanted is Modality.AUDIO and info.modality is Modality.VIDEO:
        raise MediaError("is a video without audio")
    refuse_absurd(info)
    return info


def check(data: bytes | Path, name: str, wanted: Modality | None = None) -> MediaInfo:
    """Decode one file from beginning to end; arguments as `probe`.

    Returns:
        What `probe` says, with duration, frames and size as measured.

    Raises:
        MediaError: with the reason alone.
    """
    raw = read_bytes(data)
    info = probe(raw, name, wanted)
    from bridle.media import video

    measures = {Modality.AUDIO: audio.measure, Modality.IMAGE: image.measure, Modality.VIDEO: video.measure}
    with reasons():
        measured = measures[info.modality](raw, info)
    refuse_absurd(measured)
    return measured


def read_bytes(data: bytes | Path) -> bytes:
    """The bytes of a file, refused when empty or too large to hold."""
    if isinstance(data, Path):
        try:
            size = data.stat().st_size
            if size > MAX_BYTES:
                raise MediaError(f"{size / 1024**3:.1f} GiB in one file, the limit is 2; cut it into pieces first")
            with opened(data) as file:
                data = file.read()
        except OSError as error:
            raise MediaError(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise MediaError("the file is empty")
    return data


def _suffix(name: str) -> str:
    stem, dot, suffix = os.path.basename(name).rpartition(".")
    return suffix.lower() if dot and stem else ""
