"""A preset meets a corpus: short clips, small images and few frames are normal input.

Only sizes are adapted, only downwards, and only where nobody set them by hand (`load` applies this between the preset
and everything that overrides it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Extent = Mapping[str, Sequence[float]]  # 5, 50 and 95 % quantiles, see `bridle.sharding.Manifest`
_FRAMES_PER_S = 100
_STEPS = 8  # patches along an axis that a smaller clip is still cut into
_NARROW = 7 / 8  # of half the rate: a corpus without energy above leaves the upper mel bands empty


def adapt_patches(patches: Mapping[str, Any], extent: Extent) -> dict[str, Any]:
    """The keys of the `patches` section that this corpus changes."""
    if patches["modality"] == "audio":
        return _adapt_audio(patches, extent)
    changes = _adapt_size(patches, extent)
    if patches["modality"] == "video":
        changes |= _adapt_frames(patches, extent)
    return changes


def _adapt_audio(patches: Mapping[str, Any], extent: Extent) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    longest = max(1, round(extent["duration_s"][2] * _FRAMES_PER_S))
    if longest < patches["frames"]:
        patch = _smaller(patches["patch_frames"], longest)
        changes |= {"patch_frames": patch, "frames": -(-longest // patch) * patch}
    highest_hz = extent["rate_hz"][1] / 2
    # Corpus statistics are those of the whole band; each clip's own are right for any.
    if patches["normalise"] == "clip" and highest_hz < _NARROW * patches["rate_hz"] / 2:
        changes["high_hz"] = float(highest_hz)
    return changes


def _adapt_size(patches: Mapping[str, Any], extent: Extent) -> dict[str, Any]:
    side = max(1, int(extent["short_side"][1]))
    if side >= patches["size"]:
        return {}
    patch = _smaller(patches["patch"], side)
    return {"patch": patch, "size": side // patch * patch}


def _adapt_frames(patches: Mapping[str, Any], extent: Extent) -> dict[str, Any]:
    available = max(1, int(extent["frames"][1]))
    if patches["frames"] * patches["stride"] <= available:
        return {}
    stride = max(1, available // patches["frames"])
    frames = min(patches["frames"], available // stride)
    tubelet = min(patches["tubelet"], frames)
    return {"stride": stride, "tubelet": tubelet, "frames": frames // tubelet * tubelet}


def _smaller(patch: int, extent: int) -> int:
    """Halved until at least `_STEPS` patches fit, at the least 1."""
    while patch > 1 and extent // patch < _STEPS:
        patch //= 2
    return patch
