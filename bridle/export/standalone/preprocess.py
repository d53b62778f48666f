"""Media -> patches, with NumPy alone: what goes into an export as `preprocess.py`, beside `preprocessing.json`.

    inputs = preprocess.inputs(media, rate_hz=44100)  # one clip of any length: {patches, coords, valid} of its windows
    inputs = preprocess.batch([view, view])    # windows of several clips, from `preprocess.windows`
    inputs = preprocess.rows([media, media])   # several clips, a row for each

Media are float32 mono `(S,)` for audio, resampled where `rate_hz` is not the model's; uint8 RGB `(H, W, 3)` for an
image and uint8 RGB `(T, H, W, 3)` for video (`pixels.py` makes them of files), of any size: the central square is cut
out and resized. The numbers are BRIDLE's own: pixels to the bit, audio to 1.2e-4.

Shapes: S samples, T frames, H W height and width, C channels, B windows, N patches, P values a patch, M mel bands,
F frequency bins.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Settings = str | dict[str, Any] | None  # a folder with `preprocessing.json`, what it holds, or None: beside this file


def inputs(media: Array, settings: Settings = None, rate_hz: float | None = None) -> dict[str, Array]:
    """One clip -> the model's inputs, a row for each of the windows that cover it one after the other.

    Args:
        rate_hz: sampling rate of audio; None: the model's.
    """
    return batch(windows(media, settings, rate_hz), settings)


def windows(media: Array, settings: Settings = None, rate_hz: float | None = None) -> list[Array]:
    """Consecutive pieces that cover the whole clip; the last may be shorter. An image is one."""
    kind, settings = _opened(settings)
    return kind.windows(np.asarray(media), settings["patches"], rate_hz)


def pixel_rules(settings: Settings = None) -> dict[str, Any] | None:
    """What `pixels.picture` needs to know of the images that the model was trained on."""
    rules: dict[str, Any] | None = _opened(settings)[1]["statistics"].get("pixel_rules")
    return rules


def rows(
    clips: list[Array],
    settings: Settings = None,
    which: str = "first",
    full: bool = False,
    rate_hz: float | None = None,
) -> dict[str, Array]:
    """Several clips -> the model's inputs, padded to the longest.

    Args:
        rate_hz: sampling rate of audio; None: the model's.
        which: "first": a row for each clip, of its first window; "all": a row for each window.
        full: padded to the patches of a full window instead.
    """
    if which not in ("first", "all"):
        raise ValueError(f'windows are "first" or "all", not {which!r}')
    found = [windows(clip, settings, rate_hz) for clip in clips]
    made = batch([view for views in found for view in (views if which == "all" else views[:1])], settings)
    missing = math.prod(_opened(settings)[1]["grid"]) - made["valid"].shape[1] if full else 0
    return {name: np.pad(x, [(0, 0), (0, missing), (0, 0)][: x.ndim]) for name, x in made.items()}


def batch(views: list[Array], settings: Settings = None) -> dict[str, Array]:
    """Windows -> `patches` float32 `(B, N, P)`, `coords` int64 `(B, N, 3)` (time, row, column), `valid` bool `(B, N)`,
    which is False where a window is shorter than the longest."""
    kind, settings = _opened(settings)
    if not views:
        raise ValueError("no clips")
    x_BCTHW, steps = kind.blocks(views, settings["patches"], settings["statistics"])
    patch, grid = settings["patch"], settings["grid"]
    x_BNP = _cut(x_BCTHW, patch)
    axes = [np.arange(size) for size in (x_BCTHW.shape[2] // patch[0], *grid[1:])]
    coords_N3 = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    valid_BN = coords_N3[None, :, 0] < np.array(steps)[:, None]
    return {
        "patches": np.ascontiguousarray(x_BNP * valid_BN[..., None], dtype=np.float32),
        "coords": np.repeat(coords_N3[None], len(views), axis=0).astype(np.int64),
        "valid": valid_BN,
    }


def _cut(x_BCTHW: Array, patch: list[int]) -> Array:
    """`(B, C, T, H, W)` -> `(B, N, P)`, time slowest; each patch is `(C, t, h, w)` flattened."""
    b, c, t, h, w = x_BCTHW.shape
    pt, ph, pw = patch
    x = x_BCTHW.reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw)
    return x.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * pt * ph * pw)


class _Audio:
    """Waveform -> log-mel spectrogram, Kaldi's: 25 ms windows every 10 ms."""

    @staticmethod
    def windows(wave_S: Array, patches: dict[str, Any], rate_hz: float | None) -> list[Array]:
        if wave_S.ndim != 1 or not np.issubdtype(wave_S.dtype, np.floating):
            raise ValueError(f"expected a mono waveform, float32 (samples,); got {wave_S.dtype} {wave_S.shape}")
        if not np.isfinite(wave_S).all():
            raise ValueError("the waveform holds values that are not finite numbers")
        wave_S = resample(wave_S.astype(np.float32), rate_hz or patches["rate_hz"], patches["rate_hz"])
        step = patches["patch_frames"]
        steps = patches["frames"] // step
        hop = steps * step * _hop(patches)
        longest = _samples(patches["frames"], patches)
        least = _samples(max(1, step // 2), patches)  # a tail shorter than half a patch is left out
        starts = [s for s in range(0, max(len(wave_S), 1), hop) if s == 0 or len(wave_S) - s >= least]
        if _any_scale(patches):
            wave_S = np.clip(wave_S, -1e12, 1e12)
        else:
            wave_S = np.rint(np.clip(wave_S, -1, 1) * np.float32(32767)).astype(np.int16)
        return [wave_S[s : s + longest] for s in starts]

    @staticmethod
    def blocks(views: list[Array], patches: dict[str, Any], statistics: dict[str, Any]) -> tuple[Array, list[int]]:
        step = patches["patch_frames"]
        window, hop = round(patches["rate_hz"] * 0.025), _hop(patches)
        frames = [max((len(view) - window) // hop + 1, 0) for view in views]
        steps = [min(max(1, (f + step // 2) // step), patches["frames"] // step) for f in frames]
        longest = max(steps) * step
        x_BTM = np.zeros((len(views), longest, patches["mel_bins"]), dtype=np.float32)
        for row, (view, f, s) in enumerate(zip(views, frames, steps)):
            real = max(1, min(f, s * step))
            needed = _samples(real, patches)
            wave_S = np.pad(view[:needed], (0, max(0, needed - len(view))))
            if not _any_scale(patches):
                wave_S = wave_S.astype(np.float32) / np.float32(32767)
            mel_TM = _log_mel(wave_S.astype(np.float64), patches)
            if patches["normalise"] == "corpus":
                mean, spread = statistics["fbank_mean"], 2 * statistics["fbank_std"]
            else:
                if _any_scale(patches):
                    mel_TM = np.maximum(mel_TM, mel_TM.max() - patches["range_db"] * math.log(10) / 10)
                mean, spread = mel_TM.mean(), math.sqrt(mel_TM.var() + 1e-3)
            x_BTM[row, :real] = (mel_TM - mean) / spread
        return x_BTM[:, None, :, :, None], steps


def _any_scale(patches: dict[str, Any]) -> bool:
    """Whether nothing depends on the scale of the samples; else they are rounded to 16 bits in [-1, 1]."""
    return patches["normalise"] == "clip" and patches["range_db"] is not None


def resample(wave_S: Array, from_hz: float, to_hz: float) -> Array:
    """Band-limited: a windowed sinc with 6 zero crossings, Hann, cut off at 99 % of the lower Nyquist frequency, as
    torchaudio's default. Ratios with large terms (44101 Hz to 16 kHz) are rounded, as BRIDLE does."""
    ratio = Fraction(round(to_hz), max(1, round(from_hz)))
    small = min(ratio, 1 / ratio)
    if small.numerator * small.denominator > 1 << 20:
        small = small.limit_denominator(500)
        if not small:
            raise ValueError(f"{from_hz:g} Hz cannot be resampled to {to_hz:g} Hz")
        ratio = small if ratio < 1 else 1 / small
    if ratio == 1:
        return wave_S
    out, into = ratio.numerator, ratio.denominator  # as many samples are made of how many
    cut_off = 0.99 * min(out, into)
    reach = math.ceil(6 * into / cut_off)
    groups = -(-len(wave_S) // into)
    padded_S = np.pad(wave_S, (reach, reach + 2 + (groups + 1) * into - len(wave_S)))
    found_GO = np.empty((groups, out), dtype=np.float32)
    for phase in range(out):
        first = phase * into // out
        # Distances of the samples around the new one, in zero crossings; in float32, since torchaudio rounds so too.
        place_K = np.arange(first - reach, first + reach + 2, dtype=np.float32)
        distance_K = (place_K / np.float32(into) - np.float32(phase) / np.float32(out)) * np.float32(cut_off)
        distance_K = np.clip(distance_K, -6, 6) * np.float32(math.pi)
        sinc_K = np.divide(np.sin(distance_K), distance_K, out=np.ones_like(distance_K), where=distance_K != 0)
        kernel_K = sinc_K * np.cos(distance_K / 12) ** 2 * np.float32(cut_off / into)
        span_GK = np.lib.stride_tricks.sliding_window_view(padded_S[first:], len(kernel_K))[::into][:groups]
        found_GO[:, phase] = span_GK @ kernel_K
    return found_GO.reshape(-1)[: -(-len(wave_S) * out // into)]


def _hop(patches: dict[str, Any]) -> int:
    return round(patches["rate_hz"] * 0.010)


def _samples(frames: int, patches: dict[str, Any]) -> int:
    """The fewest that give that many frames."""
    return (frames - 1) * _hop(patches) + round(patches["rate_hz"] * 0.025)


def _log_mel(wave_S: Array, patches: dict[str, Any]) -> Array:
    window = round(patches["rate_hz"] * 0.025)
    frame_TW = np.lib.stride_tricks.sliding_window_view(wave_S, window)[:: _hop(patches)]
    frame_TW = frame_TW - frame_TW.mean(-1, keepdims=True)
    before_TW = np.concatenate([frame_TW[:, :1], frame_TW[:, :-1]], axis=1)
    frame_TW = (frame_TW - 0.97 * before_TW) * np.hanning(window)
    fft = max(512, 2 ** math.ceil(math.log2(window)))
    power_TF = np.abs(np.fft.rfft(frame_TW, n=fft)[:, :-1]) ** 2  # Kaldi ignores the Nyquist bin
    mel_FM = _mel_bands(patches["rate_hz"], patches["mel_bins"], patches["low_hz"], patches["high_hz"], fft)
    return np.log(np.maximum(power_TF @ mel_FM, 1e-30 if _any_scale(patches) else np.finfo(np.float32).eps))


@cache
def _mel_bands(rate_hz: float, mel_bins: int, low_hz: float, high_hz: float, fft: int) -> Array:
    """Triangles of equal width in mel, `(F, M)`."""
    mel_F = _mel(np.arange(fft // 2) * rate_hz / fft)
    edges = np.linspace(_mel(np.array(low_hz)), _mel(np.array(high_hz or rate_hz / 2)), mel_bins + 2)
    left_M, centre_M, right_M = edges[:-2], edges[1:-1], edges[2:]
    up_FM = (mel_F[:, None] - left_M) / (centre_M - left_M)
    down_FM = (right_M - mel_F[:, None]) / (right_M - centre_M)
    return np.maximum(0.0, np.minimum(up_FM, down_FM))


def _mel(hz: Array) -> Array:
    return 1127.0 * np.log1p(hz / 700.0)


class _Image:
    """RGB pixels with the corpus' mean 0 and deviation 1."""

    @staticmethod
    def windows(x_HWC: Array, patches: dict[str, Any], rate_hz: float | None) -> list[Array]:
        if x_HWC.ndim != 3 or x_HWC.shape[-1] != 3 or x_HWC.dtype != np.uint8:
            raise ValueError(f"expected RGB pixels, uint8 (height, width, 3); got {x_HWC.dtype} {x_HWC.shape}")
        return [_square(x_HWC[None], patches["size"])[0]]

    @staticmethod
    def blocks(views: list[Array], patches: dict[str, Any], statistics: dict[str, Any]) -> tuple[Array, list[int]]:
        return _pixels(np.stack(views)[:, None], statistics), [1] * len(views)


class _Video:
    """Frames as images; what moves is enlarged where the model was trained so."""

    @staticmethod
    def windows(x_THWC: Array, patches: dict[str, Any], rate_hz: float | None) -> list[Array]:
        if x_THWC.ndim != 4 or x_THWC.shape[-1] != 3 or x_THWC.dtype != np.uint8 or not len(x_THWC):
            raise ValueError(f"expected RGB frames, uint8 (time, height, width, 3); got {x_THWC.dtype} {x_THWC.shape}")
        # A clip shorter than the window is sampled more densely before it is padded.
        stride = max(1, min(patches["stride"], len(x_THWC) // patches["frames"]))
        span, least = patches["frames"] * stride, patches["tubelet"] * stride
        starts = [s for s in range(0, len(x_THWC), span) if s == 0 or len(x_THWC) - s >= least]
        return [_square(x_THWC[s : s + span : stride], patches["size"]) for s in starts]

    @staticmethod
    def blocks(views: list[Array], patches: dict[str, Any], statistics: dict[str, Any]) -> tuple[Array, list[int]]:
        tubelet, gain = patches["tubelet"], patches["motion_gain"]
        steps = [max(1, len(view) // tubelet) for view in views]
        longest = max(steps) * tubelet
        held = [view[np.minimum(np.arange(longest), len(view) - 1)] for view in views]  # the last frame, where needed
        x_BCTHW = _pixels(np.stack(held), statistics)
        if gain != 1.0:
            b, c, t, h, w = x_BCTHW.shape
            parts = x_BCTHW.reshape(b, c, t // tubelet, tubelet, h, w)
            mean = parts.mean(3, keepdims=True)
            x_BCTHW = (mean + gain * (parts - mean)).reshape(b, c, t, h, w)
        return x_BCTHW, steps


def _pixels(x_BTHWC: Array, statistics: dict[str, Any]) -> Array:
    mean_C, std_C = (np.array(statistics[name], dtype=np.float32) for name in ("pixel_mean", "pixel_std"))
    x_BTHWC = (x_BTHWC.astype(np.float32) / np.float32(255) - mean_C) / std_C
    return x_BTHWC.transpose(0, 4, 1, 2, 3)


def _square(x_THWC: Array, size: int) -> Array:
    """The central square, resized: bilinear with antialiasing, columns first, each pass rounded to uint8."""
    height, width = x_THWC.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    x_THWC = x_THWC[:, top : top + side, left : left + side]
    if side == size:
        return x_THWC
    weight_OI, bits = _resampler(side, size)
    for axis in (2, 1):
        # Whole numbers below 2^53: float64 adds them up without an error, and faster than integers.
        sum_X = np.moveaxis(x_THWC, axis, -1).astype(np.float64) @ weight_OI.T
        pixel_X = (sum_X.astype(np.int64) + (1 << bits - 1)) >> bits
        x_THWC = np.moveaxis(pixel_X.clip(0, 255).astype(np.uint8), -1, axis)
    return x_THWC


@cache
def _resampler(side: int, size: int) -> tuple[Array, int]:
    """Triangle filter in fixed point, 16 bits as PyTorch's: whole weights `(size, side)` and their binary digits."""
    scale = side / size
    reach = max(scale, 1.0)
    centre_O = scale * (np.arange(size) + 0.5)
    first_O = np.maximum((centre_O - reach + 0.5).astype(np.int64), 0)
    last_O = np.minimum((centre_O + reach + 0.5).astype(np.int64), side)
    place_I = np.arange(side)
    weight_OI = np.maximum(0.0, 1 - np.abs((place_I - centre_O[:, None] + 0.5) / reach))
    weight_OI *= (place_I >= first_O[:, None]) & (place_I < last_O[:, None])
    weight_OI /= weight_OI.sum(1, keepdims=True)
    bits = next((n for n in range(22) if int(0.5 + weight_OI.max() * (1 << n + 1)) >= 1 << 15), 22)
    return np.floor(0.5 + weight_OI * (1 << bits)), bits


def _opened(settings: Settings) -> tuple[Any, dict[str, Any]]:
    found = settings if isinstance(settings, dict) else _load(settings)
    return {"audio": _Audio, "image": _Image, "video": _Video}[found["patches"]["modality"]], found


@cache
def _load(folder: str | None) -> dict[str, Any]:
    path = Path(folder) / "preprocessing.json" if folder else Path(__file__).with_name("preprocessing.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
