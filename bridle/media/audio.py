"""Sound: libsndfile for what it reads, FFmpeg (PyAV) for the rest, always mono float32.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch
from torch import Tensor

from bridle.errors import MediaError
from bridle.media.limits import refuse_giant
from bridle.schema import MediaInfo, Modality

if TYPE_CHECKING:  # these take as long to import as decoding a hundred clips, and most sound needs neither
    import av
    import torchaudio.transforms

_SOUNDFILE_SUFFIX = {
    "WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3", "MPEG": "mp3",
    "AIFF": "aiff", "AU": "au", "CAF": "caf", "W64": "w64", "NIST": "sph",
}  # fmt: skip
_HEADERLESS = frozenset({"g722", "gsm"})  # nothing inside says what these are: only the name does
_BLOCK = 1 << 18  # samples of all channels decoded at once
_LEANING = {"OGG", "MP3", "MPEG"}  # formats whose frames lean on those before them, so that ...
_RUN_UP_S = 0.2  # ... this much is decoded and dropped before a window
_SEEK_S = 5.0  # FFmpeg decodes shorter ways
_RESAMPLED = 1 << 20  # samples resampled at once: the filter takes many times their memory
_LARGEST_BANK = 1 << 20  # product of the terms of a resampling ratio: the filter bank has as many numbers
_TERMS = 500  # largest terms of the ratio that stands for one with a larger bank


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
    import av

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
    blocks, samples, source_hz = [], 0, rate_hz
    for block_SC, source_hz in _blocks(raw, info, start_s, length_s):
        blocks.append(block_SC.mean(axis=1, dtype=np.float32) if block_SC.shape[1] > 1 else block_SC[:, 0])
        samples += len(block_SC)
        refuse_giant(4 * samples * max(1.0, rate_hz / source_hz))
    if not blocks:
        raise MediaError("holds no samples" if window is None else f"holds no samples at {start_s:.2f} s")
    wave_S = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    del blocks  # as large again
    if not np.isfinite(wave_S).all():
        raise MediaError("holds samples that are not finite numbers")
    return resample(torch.from_numpy(np.ascontiguousarray(wave_S)), source_hz, rate_hz)


def resample(wave_S: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Band-limited resampling; ratios with large terms (44101 Hz to 16 kHz) are rounded, that one by 4e-6."""
    if from_hz == to_hz:
        return wave_S
    ratio = Fraction(to_hz, from_hz)
    if ratio.numerator * ratio.denominator > _LARGEST_BANK:  # torchaudio's would take gigabytes
        inverse = ratio > 1
        ratio = (1 / ratio if inverse else ratio).limit_denominator(_TERMS)
        ratio = 1 / ratio if inverse and ratio else ratio
    if not ratio:
        raise MediaError(f"a sampling rate of {from_hz} Hz cannot be used")
    if ratio == 1:
        return wave_S
    return _in_blocks(_resampler(ratio.denominator, ratio.numerator), wave_S, ratio)


def _in_blocks(resampler: torchaudio.transforms.Resample, wave_S: Tensor, ratio: Fraction) -> Tensor:
    """What the resampler makes of all of it at once, in less memory: each block sees as much of its neighbours as the
    filter reaches."""
    out, into = ratio.numerator, ratio.denominator  # as many samples are made of how many
    step, reach = max(1, _RESAMPLED // max(out, into)) * into, -(-resampler.width // into) * into
    if len(wave_S) <= step:
        return resampler(wave_S)
    resampled_S = wave_S.new_empty(-(-len(wave_S) * out // into))
    for start in range(0, len(wave_S), step):
        before = min(start, reach)
        block_S = resampler(wave_S[start - before : start + step + reach])
        target_S = resampled_S[start // into * out : (start + step) // into * out]
        target_S.copy_(block_S[before // into * out :][: len(target_S)])
    return resampled_S


@lru_cache(maxsize=16)
def _resampler(from_hz: int, to_hz: int) -> torchaudio.transforms.Resample:
    """Keeps the filter bank: making it takes longer than resampling a second. With this dtype the numbers are those of
    `torchaudio.functional.resample`."""
    import torchaudio.transforms

    return torchaudio.transforms.Resample(from_hz, to_hz, dtype=torch.float32)


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
    _go_to(file, start)
    left = None if length_s is None else max(1, round(length_s * rate_hz))
    step = max(1, _BLOCK // file.channels)
    while left is None or left > 0:
        block_SC = file.read(step if left is None else min(step, left), dtype="float32", always_2d=True)
        if not len(block_SC):
            return
        left = None if left is None else left - len(block_SC)
        yield block_SC, rate_hz


def _go_to(file: soundfile.SoundFile, start: int) -> None:
    """Stand at a sample, with the decoder as it would be after reading up to there."""
    run_up = min(start, round(_RUN_UP_S * file.samplerate)) if file.format in _LEANING else 0
    try:
        if start > run_up or file.subtype == "OPUS":  # until its first seek, libsndfile gives the padding before Opus
            file.seek(start - run_up)
    except soundfile.SoundFileError:  # GSM in WAV can be read from its beginning only
        run_up = start
    while run_up and (read := len(file.read(min(run_up, _BLOCK // file.channels), dtype="float32"))):
        run_up -= read


def _ffmpeg_blocks(
    raw: bytes, info: MediaInfo, start_s: float, length_s: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    import av

    with av.open(io.BytesIO(raw), "r", format=info.suffix if info.suffix in _HEADERLESS else None) as container:
        if not container.streams.audio:
            raise MediaError("holds no sound")
        planar = av.AudioResampler(format="fltp")
        frames, at = _frames_before(container, start_s if info.suffix not in _HEADERLESS else 0.0)
        for frame in frames:
            for piece in planar.resample(frame):
                block_SC = piece.to_ndarray().T
                rate_hz = piece.sample_rate
                first = round(start_s * rate_hz)
                last = None if length_s is None else first + max(1, round(length_s * rate_hz))
                kept = block_SC[max(first - at, 0) : None if last is None else max(last - at, 0)]
                at += len(block_SC)
                if len(kept):
                    yield kept, rate_hz
                if last is not None and at >= last:
                    return


def _frames_before(container: av.container.InputContainer, start_s: float) -> tuple[Iterator[av.AudioFrame], int]:
    """Decoded frames from somewhere before `start_s`, and how many samples into the file the first one lies."""
    import av

    stream = container.streams.audio[0]
    if start_s > _SEEK_S:
        zero_s = _zero_s(container, stream)
        container.seek(int((zero_s + start_s - 1.0) * av.time_base))
        frames = container.decode(stream)
        head = next(frames, None)
        if head is not None and head.time is not None and head.time - zero_s <= start_s:
            return chain([head], frames), round((head.time - zero_s) * head.sample_rate)
        container.seek(int((stream.start_time or 0) * (stream.time_base or 0) * av.time_base))
    return container.decode(stream), 0


def _zero_s(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    """The time stamp of the first sample that is heard. Transport streams begin anywhere, and Matroska's clock runs
    on while the decoder warms up, so it is the stamp of a later frame less the samples before it."""
    samples = 0
    for number, frame in enumerate(container.decode(stream)):
        if number == 8:
            return (frame.time or 0.0) - samples / frame.sample_rate
        samples += frame.samples
    return 0.0
