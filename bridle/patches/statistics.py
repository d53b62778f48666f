"""What a corpus looks like on average: measured once at sharding time, used to normalise every batch.

Sums are kept in float64 and merge in any order of processes, so the result does not depend on their number.

Shapes: S samples, T frames, M mel bins, C channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
_SMALLEST_STD = 1e-3  # silence or one flat colour: leave the values near zero instead of dividing by zero


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over one or many clips, one entry a channel (one in all for spectrograms)."""

    count: float
    sums: tuple[float, ...]
    squares: tuple[float, ...]

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


def corpus_statistics(clips: Iterable[Clip], modality: Modality) -> dict[str, float | list[float]]:
    """`{"fbank_mean", "fbank_std"}` of 128-mel spectrograms at 16 kHz, or `{"pixel_mean", "pixel_std"}` in 0..1."""
    return summarise((clip_moments(clip) for clip in clips), modality)


def summarise(moments: Iterable[Moments], modality: Modality) -> dict[str, float | list[float]]:
    """Mean and standard deviation from the moments of many clips."""
    channels = 1 if modality is Modality.AUDIO else 3
    total = sum(moments, Moments(0.0, (0.0,) * channels, (0.0,) * channels))
    if total.count:
        means = [value / total.count for value in total.sums]
        variances = [value / total.count - mean**2 for value, mean in zip(total.squares, means, strict=True)]
    else:  # nothing but silence, or clips shorter than one frame
        means, variances = [0.0] * channels, [1.0] * channels
    stds = [max(variance, _SMALLEST_STD**2) ** 0.5 for variance in variances]
    if modality is Modality.AUDIO:
        return {"fbank_mean": round(means[0], 6), "fbank_std": round(stds[0], 6)}
    return {"pixel_mean": [round(mean, 6) for mean in means], "pixel_std": [round(std, 6) for std in stds]}


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
