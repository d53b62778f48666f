"""What a corpus looks like on average: measured once at sharding time, used to normalise every batch.

Sums are kept in float64 and merge in any order of processes, so the result does not depend on their number.

Shapes: S samples, T frames, M mel bins, C channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bridle.patches.spectrogram import MelFilterbank
from bridle.schema import Clip, MediaInfo, Modality

RATE_HZ = 16000
MEL_BINS = 128
_WINDOW_S = {Modality.AUDIO: 10.0, Modality.VIDEO: 1.0}  # of a long clip; the rest would hardly change the sums
_NEEDED = {  # of each modality: statistics, how many numbers each is, and the sizes that presets adapt to
    Modality.AUDIO: (("fbank_mean", "fbank_std"), 1, ("duration_s", "rate_hz")),
    Modality.IMAGE: (("pixel_mean", "pixel_std"), 3, ("short_side",)),
    Modality.VIDEO: (("pixel_mean", "pixel_std"), 3, ("frames", "short_side")),
}
ABOVE_HZ = (1000, 2000, 4000, 8000, 11025, 16000, 22050, 32000, 48000, 96000, 192000)
_FFT = 4096  # samples of a spectrum, and ...
_SPECTRA = 1000  # ... how many at most are taken of a clip, evenly spread
_SMALLEST_STD = 1e-3  # silence or one flat colour: leave the values near zero instead of dividing by zero


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over one or many clips, one entry a channel (one in all for spectrograms).

    `measured` are further figures of one clip (see `measure`); a sum has none.
    """

    count: float
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    measured: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )


def typical_window(info: MediaInfo) -> tuple[float, float] | None:
    """(start_s, length_s) of the middle of a long clip; None takes all of it."""
    length_s = _WINDOW_S.get(info.modality)
    if length_s is None or info.duration_s is None or info.duration_s <= length_s:
        return None
    return (info.duration_s - length_s) / 2, length_s


def clip_moments(clip: Clip) -> Moments:
    """The share of one clip.

    Audio counts every spectrogram value alike, except frames of digital silence, which say nothing about the sound.
    Images and videos count one each, whatever their size, since all are resized to one.
    """
    if clip.modality is Modality.AUDIO:
        return _fbank_moments(clip)
    channel_dims = (1, 2) if clip.modality is Modality.IMAGE else (0, 2, 3)
    pixels = clip.data.double() / 255
    return Moments(1.0, tuple(pixels.mean(channel_dims).tolist()), tuple(pixels.square().mean(channel_dims).tolist()))


def corpus_statistics(clips: Iterable[Clip], modality: Modality) -> dict[str, Any]:
    """`{"fbank_mean", "fbank_std"}` of 128-mel spectrograms at 16 kHz, or `{"pixel_mean", "pixel_std"}` in 0..1."""
    return summarise((clip_moments(clip) for clip in clips), modality)


def measure(clip: Clip) -> dict[str, float]:
    """What the downmix, the scale and the sampling rate of a model would lose of one clip of audio.

    Args:
        clip: all channels `(S, C)` at their own rate (`media.as_stored`).

    Returns:
        `cancelled`: share of the channels' energy that their sum has not, 0 where they are uncorrelated;
        `cancelling`: 1 if that is more than half; `beyond_full_scale`: share of samples outside -1 to 1; `peak`;
        and, unless silent, `above_HZ` for each of `ABOVE_HZ`: share of the energy at and above that frequency.
    """
    wave_SC, rate_hz = clip.data, clip.rate_hz or 0.0
    power = wave_SC.square().sum(dtype=torch.float64).item()
    together = wave_SC.sum(1).square().sum(dtype=torch.float64).item()
    cancelled = max(0.0, 1 - together / power) if power else 0.0
    found = {
        "cancelled": cancelled,
        "cancelling": float(cancelled > 0.5),
        "beyond_full_scale": (wave_SC.abs() > 1).double().mean().item(),
        "peak": wave_SC.abs().max().item(),
    }
    size = min(_FFT, len(wave_SC))
    frame_CTW = (wave_SC - wave_SC.mean(0)).T.unfold(1, size, size)
    frame_CTW = frame_CTW[:, :: -(-frame_CTW.shape[1] // _SPECTRA)]
    power_F = torch.fft.rfft(frame_CTW * torch.hann_window(size)).abs().double().square().sum((0, 1))
    if total := power_F.sum().item():
        hz_F = torch.arange(len(power_F)) * rate_hz / size
        found |= {f"above_{hz}": power_F[hz_F >= hz].sum().item() / total for hz in ABOVE_HZ}
    return found


def summarise(moments: Iterable[Moments], modality: Modality) -> dict[str, Any]:
    """Mean and standard deviation from the moments of many clips, and what was measured: means over the clips."""
    channels = 1 if modality is Modality.AUDIO else 3
    moments = list(moments)
    total = sum(moments, Moments(0.0, (0.0,) * channels, (0.0,) * channels))
    if total.count:
        means = [value / total.count for value in total.sums]
        variances = [value / total.count - mean**2 for value, mean in zip(total.squares, means, strict=True)]
    else:  # nothing but silence, or clips shorter than one frame
        means, variances = [0.0] * channels, [1.0] * channels
    stds = [max(variance, _SMALLEST_STD**2) ** 0.5 for variance in variances]
    if modality is Modality.AUDIO:
        measured = _measured([one.measured for one in moments if one.measured])
        return {"fbank_mean": round(means[0], 6), "fbank_std": round(stds[0], 6)} | measured
    return {"pixel_mean": [round(mean, 6) for mean in means], "pixel_std": [round(std, 6) for std in stds]}


def _measured(clips: list[dict[str, float]]) -> dict[str, Any]:
    """`measure` of many clips as one."""
    if not clips:
        return {}
    means = {
        name: round(sum(values) / len(values), 6)
        for name in {name: None for clip in clips for name in clip}
        if (values := [clip[name] for clip in clips if name in clip])
    }
    found: dict[str, Any] = {name: means[name] for name in ("cancelled", "cancelling", "beyond_full_scale")}
    found["peak"] = round(max(clip["peak"] for clip in clips), 6)
    above = {str(hz): means[f"above_{hz}"] for hz in ABOVE_HZ if f"above_{hz}" in means}
    return found | ({"energy_above_hz": above} if above else {})


@functools.cache
def _filterbank() -> MelFilterbank:
    return MelFilterbank(RATE_HZ, MEL_BINS)


@torch.inference_mode()
def _fbank_moments(clip: Clip) -> Moments:
    assert clip.rate_hz == RATE_HZ, f"statistics are measured at {RATE_HZ} Hz, not {clip.rate_hz}"
    filterbank = _filterbank()
    if clip.data.numel() < filterbank.window:
        return Moments(0.0, (0.0,), (0.0,))
    mel_TM = filterbank(clip.data[None])[0].double()
    floor = torch.finfo(torch.float32).eps
    mel_TM = mel_TM[(mel_TM > torch.tensor(floor).log().double() + 1e-6).any(-1)]
    return Moments(float(mel_TM.numel()), (mel_TM.sum().item(),), (mel_TM.square().sum().item(),))


def _above(low: float, value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > low


def what_is_missing(modality: Modality, statistics: Mapping[str, Any], extent: Mapping[str, Any]) -> str | None:
    """What a set of this modality must state and does not; None when all is there."""
    names, count, sizes = _NEEDED[modality]
    for name in names:
        value = statistics.get(name)
        numbers = value if isinstance(value, list) else [value]
        low = 0.0 if name.endswith("_std") else -math.inf
        if len(numbers) != count or not all(_above(low, number) for number in numbers):
            return f"lacks the corpus statistics of {modality}: {name} is {value!r}"
    for name in sizes:
        quantiles = extent.get(name, ())
        if len(quantiles) != 3 or not all(_above(0.0, size) for size in quantiles):
            return f"lacks the sizes of {modality}: {name} is {extent.get(name)!r}"
    return None
