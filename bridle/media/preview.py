"""Clip -> something small that people can look at and listen to: images, frames that move, audio that plays.

An image becomes a small JPEG; a video its frames side by side as a JPEG, and the moving ones as a WebP; audio its
spectrogram, and a file that every browser plays.

Shapes: S audio samples, T H W time, height, width, F frequencies.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass

import numpy as np
import soundfile
from PIL import Image
from torch import Tensor

from bridle.errors import MediaError
from bridle.schema import Clip, Modality

_STRIP = 4  # frames side by side
_MOVING, _MOVING_MS = 16, 110  # frames that move, and how long each is shown
_QUALITY = 72
_BANDS, _LOW_HZ, _HIGH_HZ = 64, 60.0, 8000.0  # of a spectrogram, evenly spaced in the logarithm
_WINDOW_S, _COLUMNS, _RANGE_DB = 0.025, 400, 70.0
_MP3_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_SHORT_S = 2.0  # shorter audio is kept without loss: it is small anyhow, and MP3 pads it
# From silent to loud: dark to light in even steps, so that it reads in print and for the colour-blind too.
_HEAT = np.array([(10, 12, 38), (64, 26, 96), (140, 41, 99), (212, 72, 66), (250, 148, 62), (252, 243, 190)], float)


@dataclass(frozen=True, slots=True)
class Preview:
    """Small files of one clip, each `(media type, bytes)`.

    Attributes:
        still: what it looks like.
        moving: the same in motion; None where nothing moves.
        sound: None where there is none.
        width, height: of `still` in pixels.
        length_s: how much of the clip is shown and heard; None where there is no time.
    """

    still: tuple[str, bytes]
    width: int
    height: int
    moving: tuple[str, bytes] | None = None
    sound: tuple[str, bytes] | None = None
    length_s: float | None = None


def preview(clip: Clip, *, side: int = 160, longest_s: float = 10.0) -> Preview:
    """What a page shows of a clip.

    Args:
        clip: decoded.
        side: height of the images in pixels, at most.
        longest_s: later audio is left out.

    Raises:
        MediaError: there is nothing in it.
    """
    _refuse_empty(clip)
    if clip.modality is Modality.IMAGE:
        picture = _fit(_picture(clip.data), side)
        return Preview(_jpeg(picture), *picture.size)
    if clip.modality is Modality.VIDEO:
        frames = [_fit(_picture(clip.data[at]), side) for at in _spread(len(clip.data), _MOVING)]
        strip = _beside([frames[at] for at in _spread(len(frames), _STRIP)])
        length_s = len(clip.data) / (clip.rate_hz or 25.0)
        return Preview(_jpeg(strip), *strip.size, moving=_moving(frames, length_s), length_s=length_s)
    rate_hz = round(clip.rate_hz or 16000)
    wave_S = clip.data[: round(longest_s * rate_hz)]
    picture = _spectrogram(wave_S, rate_hz).resize((round(2.2 * side), side), Image.Resampling.BICUBIC)
    return Preview(_jpeg(picture), *picture.size, sound=_sound(wave_S, rate_hz), length_s=len(wave_S) / rate_hz)


def thumbnail(clip: Clip, side: int) -> Image.Image:
    """A square image of a clip: its middle, the frame in its middle, or its spectrogram.

    Raises:
        MediaError: there is nothing in it.
    """
    _refuse_empty(clip)
    if clip.modality is Modality.AUDIO:
        rate_hz = round(clip.rate_hz or 16000)
        return _spectrogram(clip.data[: 10 * rate_hz], rate_hz).resize((side, side), Image.Resampling.BICUBIC)
    data = clip.data[len(clip.data) // 2] if clip.modality is Modality.VIDEO else clip.data
    picture = _picture(data)
    width, height = picture.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    return picture.resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + edge, top + edge))


def _refuse_empty(clip: Clip) -> None:
    if not clip.data.numel():
        raise MediaError("has nothing to show")


def _picture(data_3HW: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(data_3HW.permute(1, 2, 0).numpy()))


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """That high, or for wide images less; small ones stay as they are."""
    width, height = picture.size
    scale = min(1.0, side / height, 2.5 * side / width)
    return picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)


def _spread(available: int, wanted: int) -> list[int]:
    """Positions from the first to the last; each once where there are few."""
    if available <= wanted:
        return list(range(available))
    return [round(at * (available - 1) / (wanted - 1)) for at in range(wanted)]


def _beside(frames: list[Image.Image]) -> Image.Image:
    width, height, gap = *frames[0].size, 3
    strip = Image.new("RGB", (len(frames) * (width + gap) - gap, height), (128, 128, 128))
    for at, frame in enumerate(frames):
        strip.paste(frame, (at * (width + gap), 0))
    return strip


def _jpeg(picture: Image.Image) -> tuple[str, bytes]:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=_QUALITY, optimize=True)
    return "image/jpeg", file.getvalue()


def _moving(frames: list[Image.Image], length_s: float) -> tuple[str, bytes] | None:
    """At its own speed; a long clip, of which few frames are shown, faster."""
    if len(frames) < 2:
        return None
    file, each_ms = io.BytesIO(), min(1000.0 * length_s / len(frames), 2 * _MOVING_MS)
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], duration=round(each_ms), loop=0, quality=55, method=3
    )
    return "image/webp", file.getvalue()


def _spectrogram(wave_S: Tensor, rate_hz: int) -> Image.Image:
    """Low frequencies at the bottom, time to the right. By NumPy: threads cost more than they save on so little."""
    size = max(64, round(_WINDOW_S * rate_hz))
    samples_S = np.nan_to_num(wave_S.numpy().astype(np.float32))
    samples_S = np.pad(samples_S, (0, max(0, 2 * size - len(samples_S))))
    hop = max(size // 4, len(samples_S) // _COLUMNS)
    window_TS = np.lib.stride_tricks.sliding_window_view(samples_S, size)[::hop] * np.hanning(size).astype(np.float32)
    spectrum_TF = np.abs(np.fft.rfft(window_TS, 4 * size))
    high_hz = min(_HIGH_HZ, rate_hz / 2)
    cut_F = np.geomspace(min(_LOW_HZ, high_hz / 2), high_hz, _BANDS + 1) * 4 * size / rate_hz
    line_F = np.minimum(cut_F.round().astype(int), spectrum_TF.shape[1] - 1).tolist()
    bands = [spectrum_TF[:, low : max(low + 1, high)].mean(1) for low, high in itertools.pairwise(line_F)]
    loud_FT = 20 * np.log10(np.maximum(np.stack(bands), 1e-8))
    level_FT = np.clip((loud_FT - loud_FT.max()) / _RANGE_DB + 1, 0, 1)[::-1] * (len(_HEAT) - 1)
    colours = [np.interp(level_FT, range(len(_HEAT)), channel) for channel in _HEAT.T]
    return Image.fromarray(np.stack(colours, -1).astype(np.uint8))


def _sound(wave_S: Tensor, rate_hz: int) -> tuple[str, bytes]:
    """MP3 where it can be written, which all browsers play; else FLAC."""
    small = len(wave_S) > _SHORT_S * rate_hz and rate_hz in _MP3_HZ and "MP3" in soundfile.available_formats()
    file = io.BytesIO()
    samples_S = wave_S.nan_to_num().clamp(-1, 1).numpy()
    if small:
        soundfile.write(file, samples_S, rate_hz, format="MP3", compression_level=0.7)
        return "audio/mpeg", file.getvalue()
    soundfile.write(file, samples_S, rate_hz, format="FLAC")
    return "audio/flac", file.getvalue()
