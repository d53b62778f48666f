"""One entry to the three decoders: bytes and what is known about them -> Clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bridle.media import audio, image
from bridle.media.limits import MAX_PIXELS, refuse_giant
from bridle.media.probe import read_bytes, reasons
from bridle.schema import AUDIO_HZ, Clip, MediaInfo, Modality


@reasons()
def decode(
    data: bytes | Path,
    info: MediaInfo,
    *,
    key: str = "",
    source: str = "",
    rate_hz: int = AUDIO_HZ,
    window: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
    checked: bool = True,
    pixel_rules: Mapping[str, Any] | None = None,
) -> Clip:
    """Decode one clip.

    Args:
        data: the file's bytes, or where they are.
        info: what `probe` or `check` said about them.
        key: name of the sample in its shard.
        source: original path, for messages.
        rate_hz: sampling rate that audio is converted to.
        window: (start_s, length_s): decode only this part (a part that reaches over the end is cut there); None
            decodes everything. Images have no time and ignore it.
        max_pixels: refuse larger images.
        checked: `check` has passed in a process that may be lost, as for every sample of a set made with
            `--check full`; for other files say False, and decoders that can crash or hang are left alone. The result
            is the same.
        pixel_rules: how images become 8 bits of sRGB, by the model's corpus statistics; see `pixels.picture`.

    Returns:
        Audio: float32 `(S,)`, channels averaged. Image: uint8 `(3, H, W)`, upright, over white where transparent.
        Video: uint8 `(T, 3, H, W)` with `rate_hz` in frames a second.

    Raises:
        MediaError: with the reason alone; also for more than `MAX_DECODED_BYTES` at once.
    """
    raw = read_bytes(data)
    refuse_giant(_decoded_bytes(info, rate_hz, window))
    if info.modality is Modality.AUDIO:
        wave_S, notice = audio.decode(raw, info, rate_hz, window)
        return Clip(key, Modality.AUDIO, wave_S, rate_hz, _start(window), source, notice)
    if info.modality is Modality.IMAGE:
        return Clip(key, Modality.IMAGE, image.decode(raw, info, max_pixels, pixel_rules), source=source)
    from bridle.media import video  # and its two decoders, for those who need them

    frames, fps, start_s = video.decode(raw, info, window, checked=checked)
    return Clip(key, Modality.VIDEO, frames, fps, start_s, source)


@reasons()
def as_stored(data: bytes | Path, info: MediaInfo, window: tuple[float, float] | None = None) -> Clip | None:
    """What `decode` would make less of: audio in all its channels at its own rate, float32 `(S, C)`; else None.

    Raises:
        MediaError: with the reason alone.
    """
    if info.modality is not Modality.AUDIO:
        return None
    wave_SC, rate_hz = audio.channels(read_bytes(data), info, window)
    return Clip("", Modality.AUDIO, wave_SC, rate_hz, _start(window))


@reasons()
def levels(data: bytes | Path, info: MediaInfo) -> np.ndarray | None:
    """See `image.levels`; None also for audio and video.

    Raises:
        MediaError: with the reason alone.
    """
    if info.modality is not Modality.IMAGE:
        return None
    return image.levels(read_bytes(data), info)


def preload(modality: Modality) -> None:
    """Load what decoding would load at the first file, for processes that are forked from this one."""
    if modality is Modality.AUDIO:
        import av  # noqa: F401
        import torchaudio.transforms  # noqa: F401
    elif modality is Modality.IMAGE:
        import torchvision.io  # noqa: F401
    else:
        import bridle.media.video  # noqa: F401


def decoded_bytes(info: MediaInfo) -> int:
    """Memory for the whole clip, decoded: audio as 16-bit samples at `AUDIO_HZ`, pixels as three bytes."""
    if info.modality is Modality.AUDIO:
        return 2 * math.ceil((info.duration_s or 0.0) * AUDIO_HZ)
    frames = info.frames if info.modality is Modality.VIDEO else 1  # of an image the first
    return 3 * (frames or 1) * (info.height or 0) * (info.width or 0)


def _decoded_bytes(info: MediaInfo, rate_hz: int, window: tuple[float, float] | None) -> float:
    """Memory for the clip that `decode` returns, as far as the file's description tells."""
    whole_s = info.duration_s or 0.0
    share = min(1.0, window[1] / whole_s) if window and whole_s > 0 else 1.0
    return share * (4 * whole_s * rate_hz if info.modality is Modality.AUDIO else decoded_bytes(info))


def decoded_rate_hz(info: MediaInfo, rate_hz: int = AUDIO_HZ) -> float | None:
    """`Clip.rate_hz` of this file when audio is decoded at that rate."""
    return rate_hz if info.modality is Modality.AUDIO else info.rate_hz


def _start(window: tuple[float, float] | None) -> float:
    return window[0] if window else 0.0
