"""Samples and pixels that are in memory already -> Clip, as decoding a file would have made it.

Shapes: S samples, C channels, T frames, H, W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridle.errors import UsageError
from bridle.media.audio import resample
from bridle.media.pixels import picture
from bridle.schema import AUDIO_HZ, Clip, Modality

_MOST_CHANNELS = 64  # of audio: a matrix with both sides longer is none
_PIXELS = "uint8 from 0 to 255"


def clip_of(
    array: Any,
    modality: Modality,
    rate_hz: float | None = None,
    *,
    name: str = "array",
    to_hz: int = AUDIO_HZ,
    pixel_rules: Mapping[str, Any] | None = None,
    channel: int | None = None,
) -> Clip:
    """A clip of what is given as a NumPy array, tensor or (images) a Pillow image.

    Args:
        array: audio: `(S,)`, `(C, S)` or `(S, C)`, floats from -1 to 1 or 16- or 32-bit integers; image: uint8
            `(H, W, 3)`, `(3, H, W)` or grey `(H, W)`; video: uint8 `(T, H, W, 3)`, `(T, 3, H, W)` or grey `(T, H, W)`.
        rate_hz: samples or frames a second; an image has none.
        name: how messages and results call it.
        to_hz: sampling rate that audio is converted to.
        pixel_rules: of a Pillow image, as in `decode`.
        channel: of audio that has several, from 1; None: their mean.

    Raises:
        UsageError: another type or shape, values that are not finite, or no rate where one is needed.
    """
    if isinstance(array, Image.Image):
        if modality is not Modality.IMAGE:
            raise UsageError(
                f"{name}: an image is not {modality}", "For video, pass an array of frames: numpy.stack(frames)."
            )
        try:
            array = picture(array, pixel_rules)
        except ValueError as error:
            raise UsageError(f"{name}: this {type(array).__name__} cannot be used: {error}") from error
    data = _tensor(array, name)
    if modality is not Modality.IMAGE and not _is_rate(rate_hz):
        what = "samples" if modality is Modality.AUDIO else "frames"
        raise UsageError(f"{name}: {modality} needs its rate in {what} per second, got {rate_hz!r}", "Pass rate_hz=...")
    if not data.numel():
        raise UsageError(f"{name}: is empty, with shape {tuple(data.shape)}")
    if modality is Modality.IMAGE:
        return Clip(name, modality, _pixels(data, name, frames=False), source=name)
    assert rate_hz is not None
    if modality is Modality.AUDIO:
        return Clip(
            name, modality, resample(_mono(data, name, channel), max(1, round(rate_hz)), to_hz), to_hz, source=name
        )
    return Clip(name, modality, _pixels(data, name, frames=True), float(rate_hz), source=name)


def _is_rate(rate_hz: Any) -> bool:
    number = isinstance(rate_hz, Real) and not isinstance(rate_hz, bool)  # NumPy's and fractions, too
    return number and math.isfinite(rate_hz) and rate_hz > 0


def _tensor(array: Any, name: str) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().cpu()
    try:
        found = np.array(array)  # torch takes no negative strides, nothing read-only and only the machine's byte order
        return torch.from_numpy(found.astype(found.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        if isinstance(array, np.ndarray):
            raise UsageError(f"{name}: an array of {array.dtype} cannot be used") from error
        raise UsageError(f"{name}: neither a path nor an array, but {type(array).__name__}") from error


def _mono(data: Tensor, name: str, channel: int | None) -> Tensor:
    """float32 `(S,)`, channels averaged or one of them."""
    if data.dtype in (torch.int16, torch.int32):
        data = data.float() / -float(torch.iinfo(data.dtype).min)
    elif not data.is_floating_point():
        raise UsageError(f"{name}: expected audio as floats from -1 to 1, or 16- or 32-bit integers, got {_name(data)}")
    if data.ndim == 2 and min(data.shape) <= _MOST_CHANNELS:
        data_CS = data.float() if data.shape[1] >= data.shape[0] else data.float().T
        if channel and 1 < len(data_CS) < channel:
            raise UsageError(f"{name}: has {len(data_CS)} channels, but the model uses channel {channel}")
        data = data_CS[channel - 1] if channel and len(data_CS) > 1 else data_CS.mean(0)
    if data.ndim != 1:
        raise UsageError(f"{name}: expected audio of shape (samples,) or (channels, samples), got {tuple(data.shape)}")
    if not data.isfinite().all():
        raise UsageError(f"{name}: the samples are not all finite numbers")
    return data.float().contiguous()


def _pixels(data: Tensor, name: str, *, frames: bool) -> Tensor:
    """uint8 `(3, H, W)`, of several frames `(T, 3, H, W)`."""
    if data.dtype != torch.uint8:
        raise UsageError(
            f"{name}: expected pixels as {_PIXELS}, got {_name(data)}",
            "Convert floats from 0 to 1: (255 * x).round() as uint8.",
        )
    if frames and data.ndim == 3 and data.shape[-1] == 3:
        raise UsageError(f"{name}: one frame is not a video", "Pass several frames as one array: numpy.stack(frames).")
    wanted = 4 if frames else 3
    if data.ndim == wanted - 1:
        data = data.unsqueeze(-1).expand(*data.shape, 3)
    if data.ndim == wanted and data.shape[-1] == 3:
        data = data.movedim(-1, -3)
    if data.ndim != wanted or data.shape[-3] != 3:
        shape = "(frames, height, width, 3)" if frames else "(height, width, 3)"
        raise UsageError(
            f"{name}: expected pixels of shape {shape}, or with the 3 colours first, got {tuple(data.shape)}"
        )
    return data.contiguous()


def _name(data: Tensor) -> str:
    return str(data.dtype).removeprefix("torch.")
