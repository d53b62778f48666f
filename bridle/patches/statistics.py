"""What a corpus looks like on average: measured once at sharding time, used to normalise every batch.

Sums are kept in float64 and merge in any order of processes, so the result does not depend on their number.

Shapes: S samples, T frames, M mel bins, C channels, L levels, K levels of many images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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
PIXEL_RULES: Mapping[str, Any] = {"srgb": True}  # by which images are read since there are such rules
_MOST_USED = 0.8  # of the span of all values: where the quantiles use less, the rest is outliers
_NARROW = 0.05  # of the range: less is fewer than 13 of 256 levels
_SMALLEST_STD = 1e-3  # silence or one flat colour: leave the values near zero instead of dividing by zero


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over one or many clips, one entry a channel (one in all for spectrograms).

    `measured` are further figures of one clip of audio (see `measure`); a sum has none. An image with more than 8 bits
    a channel has `levels_CL` instead of sums: its smallest value, evenly spread quantiles and its largest value. Sums
    need the range of the corpus, which is known when all have been seen.
    """

    count: float
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    measured: dict[str, float] = field(default_factory=dict)
    levels_CL: tuple[tuple[float, ...], ...] = ()

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

    Audio counts every spectrogram value alike, except frames of digital silence, which say nothing about the audio.
    Images and videos count one each, whatever their size, since all are resized to one.
    """
    if clip.modality is Modality.AUDIO:
        return _fbank_moments(clip)
    channel_dims = (1, 2) if clip.modality is Modality.IMAGE else (0, 2, 3)
    pixels = clip.data.double() / 255
    return Moments(1.0, tuple(pixels.mean(channel_dims).tolist()), tuple(pixels.square().mean(channel_dims).tolist()))


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


def summarise(
    moments: Iterable[Moments], modality: Modality, pixel_range: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Mean and standard deviation from the moments of many clips.

    Args:
        pixel_range: of images with more than 8 bits a channel; None: measured.

    Returns:
        `fbank_mean` and `fbank_std` of 128-mel spectrograms at 16 kHz, or `pixel_mean` and `pixel_std` in 0..1; of
        images also `pixel_rules`, by which they were read and are to be read (see `bridle.media.pixels.picture`), and
        `deep`, what was found out about those with more than 8 bits a channel, if there are any. Audio also has what
        `measure` found, as means over the clips.
    """
    channels = 1 if modality is Modality.AUDIO else 3
    moments = list(moments)
    total, deep = Moments(0.0, (0.0,) * channels, (0.0,) * channels), list[np.ndarray]()
    for one in moments:
        if one.levels_CL:
            deep.append(np.array(one.levels_CL))
        else:
            total += one
    found = dict[str, Any]()
    if modality is Modality.IMAGE:
        found["pixel_rules"] = dict[str, Any](PIXEL_RULES)
        if deep and (used := pixel_range or _typical_range(deep)):
            found["pixel_rules"]["range"] = list(used)
            found["deep"] = _about_deep(deep, *used)
            total = sum((_ranged_moments(levels_CL, *used) for levels_CL in deep), total)
    if total.count:
        means = [value / total.count for value in total.sums]
        variances = [value / total.count - mean**2 for value, mean in zip(total.squares, means, strict=True)]
    else:  # nothing but silence, or clips shorter than one frame
        means, variances = [0.0] * channels, [1.0] * channels
    stds = [max(variance, _SMALLEST_STD**2) ** 0.5 for variance in variances]
    if modality is Modality.AUDIO:
        measured = _measured([one.measured for one in moments if one.measured])
        return {"fbank_mean": round(means[0], 6), "fbank_std": round(stds[0], 6)} | measured
    pixels = {"pixel_mean": [round(mean, 6) for mean in means], "pixel_std": [round(std, 6) for std in stds]}
    return pixels | found


def _pooled(deep: Sequence[np.ndarray]) -> tuple[np.ndarray, float, float]:
    """The quantiles of all images, each counted alike, and their smallest and largest value."""
    pooled_K = np.concatenate([levels_CL[:, 1:-1].ravel() for levels_CL in deep])
    return pooled_K, min(float(x.min()) for x in deep), max(float(x.max()) for x in deep)


def _typical_range(deep: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """All values where most of what lies between them is used, else their 0.1 and 99.9 % quantiles; None: there is only
    one value."""
    pooled_K, least, most = _pooled(deep)
    low, high = (float(x) for x in np.quantile(pooled_K, (0.001, 0.999)))
    if high - low < _MOST_USED * (most - least) and low < high:
        return low, high
    return (least, most) if least < most else None


def _about_deep(deep: Sequence[np.ndarray], low: float, high: float) -> dict[str, Any]:
    """For notices: how many images were measured, their smallest and largest value, the share of values outside the
    range, and how many images, or the middle nine tenths of all values, use less than a twentieth of it."""
    pooled_K, least, most = _pooled(deep)
    spans = np.array([x[:, -2].max() - x[:, 1].min() for x in deep])
    middle = np.quantile(pooled_K, (0.05, 0.95))
    return {
        "images": len(deep),
        "values": [least, most],
        "outside": round(float(((pooled_K < low) | (pooled_K > high)).mean()), 4),
        "narrow": int((spans < _NARROW * (high - low)).sum()),
        "squeezed": bool(middle[1] - middle[0] < _NARROW * (high - low)),
    }


def _ranged_moments(levels_CL: np.ndarray, low: float, high: float) -> Moments:
    x_CL = ((levels_CL[:, 1:-1] - low) / (high - low)).clip(0, 1)
    mean_3, square_3 = (np.broadcast_to(x.mean(1), 3).tolist() for x in (x_CL, x_CL**2))
    return Moments(1.0, tuple(mean_3), tuple(square_3))


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
    rules = statistics.get("pixel_rules", {})
    bounds = rules.get("range", [0, 1]) if isinstance(rules, dict) else None
    if not (isinstance(bounds, list) and len(bounds) == 2 and _above(-math.inf, bounds[0]) and _above(*bounds)):
        return f"has pixel_rules that cannot be used: {rules!r}"
    for name in sizes:
        quantiles = extent.get(name, ())
        if len(quantiles) != 3 or not all(_above(0.0, size) for size in quantiles):
            return f"lacks the sizes of {modality}: {name} is {extent.get(name)!r}"
    return None
