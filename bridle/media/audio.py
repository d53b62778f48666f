"""Sound: libsndfile for what it reads, FFmpeg (PyAV) for the rest, always mono float32.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import soundfile
import torch
import torchaudio.functional
from torch import Tensor

from bridle.errors import MediaError
from bridle.schema import MediaInfo, Modality

_SOUNDFILE_SUFFIX = {
    "WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3", "MPEG": "mp3",
    "AIFF": "aiff", "AU": "au", "CAF": "caf", "W64": "w64", "NIST": "sph",
}  # fmt: skip
_HEADERLESS = frozenset({"g722", "gsm"})  # nothing inside says what these are: only the name does
_BLOCK = 1 << 18
_TERMS = 500  # largest numerator or denominator of a resampling ratio: the filter bank has that many rows


def probe(raw: bytes) -> MediaInfo | None:
    """What libsndfile knows; None when it does not know the format."""
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            if file.format not in _SOUNDFILE_SUFFIX or file.samplerate <= 0:
                return None
            suffix = "opus" if file.subtype == "OPUS" else _SOUNDFILE_SUFFIX[file.format]
            duration_s = file.frames / file.samplerate
            return MediaInfo(Modality.AUDIO, suffix, duration_s, float(file.samplerate), file.channels)
    except (soundfile.SoundFileError, ValueError, TypeError):
        return None


def probe_headerless(raw: bytes, hint: str) -> MediaInfo | None:
    """Formats without a header, on the word of their name."""
    if hint not in _HEADERLESS:
        return None
    try:
        with av.open(io.BytesIO(raw), "r", format=hint) as container:
            stream = container.streams.audio[0]
            duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            return MediaInfo(Modality.AUDIO, hint, duration_s, float(stream.rate), stream.channels)
    except (av.FFmpegError, IndexError):
        return None


def measure(raw: bytes, info: MediaInfo) -> MediaInfo:
    """Decode everything in blocks and count."""
    samples, rate_hz, channels = 0, 0, 0
    for block_SC, rate_hz in _blocks(raw, info, 0.0, None):  # noqa: B007
        if not np.isfinite(block_SC).all():
            raise MediaError("holds samples that are not finite numbers")
        samples, channels = samples + len(block_SC), block_SC.shape[1]
    if not samples:
        raise MediaError("holds no samples")
    return replace(info, duration_s=samples / rate_hz, rate_hz=float(rate_hz), channels=channels)


def decode(raw: bytes, info: MediaInfo, rate_hz: int, window: tuple[float, float] | None) -> Tensor:
    """The samples of the window: float32 `(S,)`, channels averaged, at `rate_hz`."""
    start_s, length_s = window or (0.0, None)
    blocks, source_hz = [], rate_hz
    for block_SC, source_hz in _blocks(raw, info, start_s, length_s):  # noqa: B007
        blocks.append(block_SC.mean(axis=1, dtype=np.float32) if block_SC.shape[1] > 1 else block_SC[:, 0])
    if not blocks:
        raise MediaError("holds no samples" if window is None else f"holds no samples at {start_s:.2f} s")
    wave_S = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    if not np.isfinite(wave_S).all():
        raise MediaError("holds samples that are not finite numbers")
    return resample(torch.from_numpy(np.ascontiguousarray(wave_S)), source_hz, rate_hz)


def resample(wave_S: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Band-limited resampling; ratios with large terms (44101 Hz) are rounded, for less than 1e-5 in pitch."""
    if from_hz == to_hz:
        return wave_S
    ratio = Fraction(to_hz, from_hz)
    if max(ratio.numerator, ratio.denominator) > _TERMS:  # torchaudio's filter bank would take gigabytes
        inverse = ratio > 1
        ratio = (1 / ratio if inverse else ratio).limit_denominator(_TERMS)
        ratio = 1 / ratio if inverse and ratio else ratio
    if not ratio:
        raise MediaError(f"a sampling rate of {from_hz} Hz cannot be used")
    return torchaudio.functional.resample(wave_S, ratio.denominator, ratio.numerator)


def _blocks(raw: bytes, info: MediaInfo, start_s: float, length_s: float | None) -> Iterator[tuple[np.ndarray, int]]:
    """float32 `(S, C)` blocks of the window and their rate."""
    if info.suffix in _SOUNDFILE_SUFFIX.values() or info.suffix == "opus":
        try:
            file = soundfile.SoundFile(io.BytesIO(raw))
        except soundfile.SoundFileError:
            file = None  # the same suffix can hold what only FFmpeg reads (ADTS in .aac, FLAC in Ogg)
        if file is not None:
            with file:
                yield from _soundfile_blocks(file, start_s, length_s)
            return
    yield from _ffmpeg_blocks(raw, info, start_s, length_s)


def _soundfile_blocks(
    file: soundfile.SoundFile, start_s: float, length_s: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    rate_hz = file.samplerate
    start = round(start_s * rate_hz)
    if start >= file.frames > 0:
        return
    if start:
        file.seek(start)
    left = None if length_s is None else max(1, round(length_s * rate_hz))
    while left is None or left > 0:
        block_SC = file.read(_BLOCK if left is None else min(_BLOCK, left), dtype="float32", always_2d=True)
        if not len(block_SC):
            return
        left = None if left is None else left - len(block_SC)
        yield block_SC, rate_hz


def _ffmpeg_blocks(
    raw: bytes, info: MediaInfo, start_s: float, length_s: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    with av.open(io.BytesIO(raw), "r", format=info.suffix if info.suffix in _HEADERLESS else None) as container:
        if not container.streams.audio:
            raise MediaError("holds no sound")
        stream = container.streams.audio[0]
        if start_s > 5.0 and info.suffix not in _HEADERLESS:  # below that decoding is as fast as seeking
            container.seek(int((start_s - 1.0) * av.time_base))
        planar = av.AudioResampler(format="fltp")
        at: int | None = None
        for frame in container.decode(stream):
            for piece in planar.resample(frame):
                block_SC = piece.to_ndarray().T
                rate_hz = piece.sample_rate
                if at is None:
                    at = round((frame.time or 0.0) * rate_hz) if start_s > 5.0 else 0
                first = round(start_s * rate_hz)
                last = None if length_s is None else first + max(1, round(length_s * rate_hz))
                kept = block_SC[max(first - at, 0) : None if last is None else max(last - at, 0)]
                at += len(block_SC)
                if len(kept):
                    yield kept, rate_hz
                if last is not None and at >= last:
                    return
