"""Audio: libsndfile for what it reads, FFmpeg (PyAV) for the rest, always mono float32.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch
from torch import Tensor

from bridle.errors import MediaError
from bridle.media.limits import ALONE, refuse_giant
from bridle.schema import MediaInfo, Modality

if TYPE_CHECKING:  # these take as long to import as decoding a hundred clips, and most audio needs neither
    import av
    import torchaudio.transforms

_SOUNDFILE_SUFFIX = {
    "WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3", "MPEG": "mp3",
    "AIFF": "aiff", "AU": "au", "CAF": "caf", "W64": "w64", "NIST": "sph",
}  # fmt: skip
_HEADERLESS = frozenset({"g722", "gsm"})  # nothing inside says what these are: only the name does
FFMPEG = "ffmpeg"  # `MediaInfo.decoder` of a file that libsndfile reads in part or not at all
_BLOCK = 1 << 18  # samples of all channels decoded at once
_LEANING = ("VORBIS", "OPUS", "MPEG")  # codecs whose frames lean on those before them, so that ...
_BEGINNING = {"OGG": re.compile(rb"OggS\x00[\x02\x03\x06\x07]"), "FLAC": re.compile(rb"fLaC")}  # of a stream
_RUN_UP_S = 3.0  # ... this much is decoded and dropped before a window: an MP3 frame may lean on 85, Opus converges
_PADDING = 3 * 1152  # samples that encoders add at both ends at most
_COMPARED_S = 0.1  # of a window that is compared with the whole, and ...
_MOST_ERROR = 1e-4  # ... its error's energy, relative to its own; Opus after its run-up is below 1e-5
_RESAMPLED = 1 << 20  # samples resampled at once: the filter takes many times their memory
_LARGEST_BANK = 1 << 20  # product of the terms of a resampling ratio: the size of the filter bank
_TERMS = 500  # largest terms of the ratio that stands for one with a larger bank


class _SoundFile(soundfile.SoundFile):
    """Reads on from where it stands. soundfile seeks after each block, where frames lose those that they lean on."""

    def seekable(self) -> bool:
        return False


def probe(raw: bytes) -> MediaInfo | None:
    """What libsndfile knows; None when it does not know the format.

    The decoder is FFmpeg where libsndfile would not read all of it, or number its channels otherwise.

    Raises:
        MediaError: neither reads all of it.
    """
    try:
        with _SoundFile(io.BytesIO(raw)) as file:
            if file.format not in _SOUNDFILE_SUFFIX or file.samplerate <= 0:
                return None
            suffix = "opus" if file.subtype == "OPUS" else _SOUNDFILE_SUFFIX[file.format]
            duration_s = file.frames / file.samplerate
            info = MediaInfo(Modality.AUDIO, suffix, duration_s, float(file.samplerate), file.channels)
            if whole_s := _seconds_beyond_libsndfile(raw, file):
                return replace(info, duration_s=whole_s, decoder=FFMPEG)
            if file.format == "OGG" and file.channels > 2:  # libsndfile has them in the order of Ogg, not of WAV
                return replace(info, decoder=FFMPEG)
            return info
    except (soundfile.SoundFileError, ValueError, TypeError):
        return None


def _seconds_beyond_libsndfile(raw: bytes, file: soundfile.SoundFile) -> float | None:
    """The duration by FFmpeg's packets where libsndfile stops before the end or does not know it; None: it reads all.

    It stops at the end of the first of several streams in one file, at a size of zero, at the count in an MP3 header
    or at an estimate where there is none.

    Raises:
        MediaError: FFmpeg cannot read all of the streams either.
    """
    mpeg = file.subtype.startswith("MPEG")
    counted = 0 < file.frames < 1 << 48  # a stream without a count has a giant one
    beginnings = len(_BEGINNING[file.format].findall(raw)) if file.format in _BEGINNING else 1
    if counted and not mpeg and beginnings < 2:  # its samples are stated; FFmpeg would add padding to Ogg
        return None
    whole_s = duration_by_packets(raw)
    if whole_s is None and beginnings > 1:
        raise MediaError(
            "holds joined recordings of different formats, of which only the first can be read; convert it to FLAC"
        )
    beyond = round((whole_s or 0.0) * file.samplerate) - file.frames
    if counted and (abs(beyond) <= _PADDING if mpeg else beyond <= 0):
        return None
    return whole_s


def duration_by_packets(raw: bytes) -> float | None:
    """Seconds of audio by FFmpeg's packets, which costs about a tenth of decoding; None: it cannot say."""
    import av

    try:
        with av.open(io.BytesIO(raw), "r", container_options=ALONE) as container:
            stream = container.streams.audio[0]
            first, end, ticks = None, 0, 0
            for packet in container.demux(stream):
                lasts = packet.duration or 0
                lasts = lasts if lasts * (stream.time_base or 0) < 3600 else 0  # in Ogg of one page it is 2^32 too long
                if packet.pts is not None:
                    first = packet.pts if first is None else first
                    end = packet.pts + lasts
                ticks += lasts
            span = end - (first or 0)  # where durations are rounded, it is a little more
            return float((span if ticks <= span < 1.05 * ticks else ticks) * (stream.time_base or 0))
    except (av.FFmpegError, IndexError):
        return None


def probe_headerless(raw: bytes, hint: str) -> MediaInfo | None:
    """Formats without a header, on the word of their name."""
    if hint not in _HEADERLESS:
        return None
    import av

    try:
        with av.open(io.BytesIO(raw), "r", format=hint, container_options=ALONE) as container:
            stream = container.streams.audio[0]
            duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            return MediaInfo(Modality.AUDIO, hint, duration_s, float(stream.rate), stream.channels)
    except (av.FFmpegError, IndexError):
        return None


def measure(raw: bytes, info: MediaInfo) -> MediaInfo:
    """Decode everything in blocks and count; where windows differ from it, the decoder becomes FFmpeg."""
    samples, rate_hz, channels = 0, 0, 0
    starts_s = _compared_s(info)
    kept: list[list[np.ndarray]] = [[] for _ in starts_s]
    for block_SC, rate_hz in _blocks(raw, info, 0.0, None):
        if not np.isfinite(block_SC).all():
            raise MediaError("holds samples that are not finite numbers")
        for start_s, pieces in zip(starts_s, kept, strict=True):
            first = round(start_s * rate_hz) - samples
            if len(piece_SC := block_SC[max(first, 0) : max(first + round(_COMPARED_S * rate_hz), 0)]):
                pieces.append(piece_SC.copy())  # a view would keep the block
        samples, channels = samples + len(block_SC), block_SC.shape[1]
    if not samples:
        raise MediaError("holds no samples")
    for start_s, pieces in zip(starts_s, kept, strict=True):
        window = [block_SC for block_SC, _ in _blocks(raw, info, start_s, _COMPARED_S)]
        if not _alike(window, pieces):
            return measure(raw, replace(info, decoder=FFMPEG))
    return replace(info, duration_s=samples / rate_hz, rate_hz=float(rate_hz), channels=channels)


def _compared_s(info: MediaInfo) -> list[float]:
    """Where windows are compared with the whole: only where libsndfile gets there by a seek."""
    if not _by_libsndfile(info) or (info.duration_s or 0.0) <= _RUN_UP_S:
        return []
    last_s = (info.duration_s or 0.0) - _COMPARED_S
    return [start_s for start_s in (0.6 * last_s, last_s) if start_s > _RUN_UP_S]


def _alike(window: list[np.ndarray], pieces: list[np.ndarray]) -> bool:
    """Whether a window is the same piece of the whole, both in blocks `(S, C)`."""
    if sum(map(len, window)) != sum(map(len, pieces)):
        return False
    empty = np.zeros((0, 1), np.float32)
    window_SC, slice_SC = np.concatenate([*window] or [empty]), np.concatenate([*pieces] or [empty])
    error, energy = (np.square(x_SC, dtype=np.float64).sum() for x_SC in (window_SC - slice_SC, slice_SC))
    return bool(error <= _MOST_ERROR * energy)


def decode(raw: bytes, info: MediaInfo, rate_hz: int, window: tuple[float, float] | None) -> tuple[Tensor, str]:
    """The samples of the window: float32 `(S,)`, channels averaged or one of them, at `rate_hz`; and what that lost."""
    start_s, length_s = window or (0.0, None)
    blocks, samples, source_hz, power, together = [], 0, rate_hz, 0.0, 0.0
    for block_SC, source_hz in _blocks(raw, info, start_s, length_s):
        block_SC = _chosen(block_SC, info)
        blocks.append(block_SC.mean(axis=1, dtype=np.float32) if block_SC.shape[1] > 1 else block_SC[:, 0])
        if block_SC.shape[1] > 1:
            power += float(np.vdot(block_SC, block_SC))
            together += block_SC.shape[1] ** 2 * float(np.vdot(blocks[-1], blocks[-1]))
        samples += len(block_SC)
        refuse_giant(4 * samples * max(1.0, rate_hz / source_hz))
    if not blocks:
        raise MediaError("holds no samples" if window is None else f"holds no samples at {start_s:.2f} s")
    wave_S = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    del blocks  # as large again
    if not np.isfinite(wave_S).all():
        raise MediaError("holds samples that are not finite numbers")
    lost = 1 - together / power if power else 0.0
    notice = f"channels cancel: {lost:.0%} of the energy is lost in their mean" if lost > 0.5 else ""
    return resample(torch.from_numpy(np.ascontiguousarray(wave_S)), source_hz, rate_hz), notice


def channels(raw: bytes, info: MediaInfo, window: tuple[float, float] | None) -> tuple[Tensor, int]:
    """All channels of the window as they are, or the chosen one: float32 `(S, C)`, and their rate."""
    start_s, length_s = window or (0.0, None)
    blocks = list(_blocks(raw, info, start_s, length_s))
    if not blocks:
        raise MediaError("holds no samples")
    return torch.from_numpy(np.concatenate([_chosen(block_SC, info) for block_SC, _ in blocks])), blocks[0][1]


def _chosen(block_SC: np.ndarray, info: MediaInfo) -> np.ndarray:
    """All channels, or the one that is to be taken; mono files are taken as they are."""
    if info.channel is None or block_SC.shape[1] == 1:
        return block_SC
    if info.channel > block_SC.shape[1]:
        raise MediaError(f"has {block_SC.shape[1]} channels, not the requested channel {info.channel}")
    return block_SC[:, info.channel - 1 : info.channel]


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


def _by_libsndfile(info: MediaInfo) -> bool:
    return info.decoder != FFMPEG and (info.suffix == "opus" or info.suffix in _SOUNDFILE_SUFFIX.values())


def _blocks(raw: bytes, info: MediaInfo, start_s: float, length_s: float | None) -> Iterator[tuple[np.ndarray, int]]:
    """float32 `(S, C)` blocks of the window and their rate."""
    if _by_libsndfile(info):
        try:
            file = _SoundFile(io.BytesIO(raw))
        except soundfile.SoundFileError:
            file = None  # the same suffix can hold what only FFmpeg reads (ADTS in .aac, FLAC in Ogg)
        if file is not None:
            with file:
                yield from _soundfile_blocks(file, raw, start_s, length_s)
            return
    yield from _ffmpeg_blocks(raw, info, start_s, length_s)


def _soundfile_blocks(
    file: soundfile.SoundFile, raw: bytes, start_s: float, length_s: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    rate_hz = file.samplerate
    start = round(start_s * rate_hz)
    if start >= file.frames > 0:
        return
    _go_to(file, raw, start)
    left = None if length_s is None else max(1, round(length_s * rate_hz))
    if file.format == "FLAC":  # a tag behind its last sample would be taken for a damaged frame
        left = min(left or file.frames, file.frames - start)
    step = max(1, _BLOCK // file.channels)
    while left is None or left > 0:
        block_SC = file.read(step if left is None else min(step, left), dtype="float32", always_2d=True)
        if not len(block_SC):
            return
        left = None if left is None else left - len(block_SC)
        yield block_SC, rate_hz


def _go_to(file: soundfile.SoundFile, raw: bytes, start: int) -> None:
    """Stand at a sample, with the decoder as it would be after reading up to there."""
    at = start
    if file.subtype.startswith(_LEANING):
        if file.subtype == "VORBIS":
            at = min(at, _last_page(raw))
        at = max(0, at - round(_RUN_UP_S * file.samplerate))
    try:
        if at or file.subtype == "OPUS":  # until its first seek, libsndfile gives the padding before Opus
            file.seek(at)
    except soundfile.SoundFileError:  # GSM in WAV can be read from its beginning only
        at = 0
    while at < start and (read := len(file.read(min(start - at, _BLOCK // file.channels), dtype="float32"))):
        at += read


def _last_page(raw: bytes) -> int:
    """The first sample of an Ogg file's last page, which libsndfile miscalculates where its end is trimmed."""
    before = raw.rfind(b"OggS", 0, max(0, raw.rfind(b"OggS")))
    return max(0, int.from_bytes(raw[before + 6 : before + 14], "little", signed=True))


def _ffmpeg_blocks(
    raw: bytes, info: MediaInfo, start_s: float, length_s: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Always from the beginning: the clocks of most containers are coarser than a sample, and some codecs make noise
    that depends on all before it."""
    import av

    hint = info.suffix if info.suffix in _HEADERLESS else None
    with av.open(io.BytesIO(raw), "r", format=hint, container_options=ALONE) as container:
        if not container.streams.audio:
            raise MediaError("holds no audio")
        packed, kind, first_kind, at = None, None, None, 0
        for frame in _frames(container, info):
            if packed is None or kind != (frame.format.name, frame.layout.name, frame.sample_rate):
                kind = frame.format.name, frame.layout.name, frame.sample_rate
                first_kind = first_kind or kind  # a joined stream may have another rate or other channels
                # Packed: of planar frames with more than 8 channels PyAV 18 reads beyond the end of memory.
                packed = av.AudioResampler("flt", first_kind[1], first_kind[2])
            for piece in packed.resample(frame):
                block_SC = piece.to_ndarray().reshape(piece.samples, -1)
                rate_hz = piece.sample_rate
                first = round(start_s * rate_hz)
                last = None if length_s is None else first + max(1, round(length_s * rate_hz))
                kept = block_SC[max(first - at, 0) : None if last is None else max(last - at, 0)]
                at += len(block_SC)
                if len(kept):
                    yield kept, rate_hz
                if last is not None and at >= last:
                    return


def _frames(container: av.container.InputContainer, info: MediaInfo) -> Iterator[av.AudioFrame]:
    """Frames in order; a tag between joined streams is passed over as a packet that is none."""
    import av

    for packet in container.demux(container.streams.audio[0]):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            if info.decoder != FFMPEG:
                raise
