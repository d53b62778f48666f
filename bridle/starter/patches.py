"""Words about the sizes of windows, pictures and patches: each kind of media has its own, beside the clips' sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridle.config.sections import AudioPatches, ImagePatches, VideoPatches

Line = tuple[str, Any, str]  # key, value, comment ("": the one above speaks for it)
Extent = Mapping[str, Sequence[float]]  # 5, 50 and 95 % quantiles, see `bridle.sharding.Manifest`


def about_patches(patches: AudioPatches | ImagePatches | VideoPatches, extent: Extent) -> list[Line]:
    if isinstance(patches, AudioPatches):
        return _about_sound(patches, extent)
    return (_about_frames(patches, extent) if isinstance(patches, VideoPatches) else []) + _about_size(patches, extent)


def _about_sound(patches: AudioPatches, extent: Extent) -> list[Line]:
    window_s, (_, middle_s, longest_s) = patches.frames / 100, extent["duration_s"]
    if longest_s < window_s + 0.01:
        seen = "95 % of your clips are no longer, nothing of them is cut off"
    else:
        seen = f"each pass takes one at random from a longer clip, and half of yours are longer than {middle_s:.3g} s"
    window = (
        f"A window of {window_s:.3g} s (10 ms a frame): {seen}. More, where what matters takes longer than that; work "
        "grows with it."
    )
    across = -(-patches.frames // patches.patch_frames)
    patch = f"A patch spans {10 * patches.patch_frames} ms: {across} of them a window."
    whole, rate = patches.rate_hz / 2, extent["rate_hz"][1]
    band = patches.high_hz or whole
    empty = ": the upper bands of those are empty" if band > rate / 2 else ""
    bands = (
        f"Mel bands end at {band:.0f} Hz (0: at {whole:.0f}). Half of your clips have a rate of {rate:.0f} Hz or less, "
        f"and no sound above half of it{empty}."
    )
    return [
        ("frames", patches.frames, window),
        ("patch_frames", patches.patch_frames, patch),
        ("high_hz", patches.high_hz, bands),
    ]


def _about_frames(patches: VideoPatches, extent: Extent) -> list[Line]:
    taken, rate = patches.frames * patches.stride, extent.get("rate_hz", [0, 0, 0])[1]
    long = f", {taken / rate:.3g} s" if rate else ""
    window = (
        f"A window of {patches.frames} frames, one in {patches.stride} (stride), from {taken} of the video{long}; "
        f"half of your clips have {extent['frames'][1]:.0f} or fewer. A larger stride shows slower movements."
    )
    tubelet = f"A patch spans {patches.tubelet} of these frames; frames is a multiple."
    return [
        ("frames", patches.frames, window),
        ("stride", patches.stride, ""),
        ("tubelet", patches.tubelet, tubelet),
    ]


def _about_size(patches: ImagePatches | VideoPatches, extent: Extent) -> list[Line]:
    side, size = extent["short_side"][1], patches.size
    scaled = "shrunk" if side > size else "left as they are" if side == size else "enlarged"
    sides = (
        f"Pixels of a side; half of your clips have a short side of {side:.0f} or less, and without a crop they are "
        f"{scaled}. More, where details matter; work grows with its square. A multiple of patch."
    )
    crop = (
        f"Smallest share of the area that a random crop keeps: {patches.crop_scale**0.5 * side:.0f} of {side:.0f} "
        "pixels here. 1: no crops, where position and scale must stay."
    )
    return [("size", size, sides), ("patch", patches.patch, ""), ("crop_scale", patches.crop_scale, crop)]
