"""The sampling rate that a corpus needs, and words about the sizes of windows, images and patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridle.archive import Manifest
from bridle.config.sections import LEAST_HZ, MOST_HZ, AudioPatches, ImagePatches, VideoPatches
from bridle.sharding import energy_by_hz

Line = tuple[str, Any, str]  # key, value, comment ("": the one above speaks for it)
Extent = Mapping[str, Sequence[float]]  # 5, 50 and 95 % quantiles, see `bridle.sharding.Manifest`
Shares = Mapping[str, float]  # frequency -> share of the energy above it
_LOST = 0.05  # share of the energy that may lie above the band
_LOW = 0.99  # share of the energy above the lower edge, where that is raised
_SLOW_HZ = 8000  # of recordings with a lower rate most bands at 16 kHz would be empty


def energy_shares(manifests: Sequence[Manifest]) -> Shares:
    """Of all sets that were measured, weighted by their samples."""
    found = [(shares, one.samples) for one in manifests if (shares := energy_by_hz(one.statistics))]
    common = [hz for hz in (found[0][0] if found else ()) if all(hz in shares for shares, _ in found)]
    total = sum(samples for _, samples in found)
    return {hz: sum(shares[hz] * samples for shares, samples in found) / total for hz in common}


def proposed_band(
    patches: AudioPatches | ImagePatches | VideoPatches, extent: Extent, shares: Shares
) -> dict[str, Any]:
    """Settings of the patches where the rate or the energy of the recordings needs another band than the preset's."""
    if not isinstance(patches, AudioPatches):
        return {}
    recorded_hz = round(extent["rate_hz"][2])
    wide = [int(hz) for hz, share in shares.items() if int(hz) >= patches.rate_hz / 2 and share > _LOST]
    narrow = [int(hz) for hz in shares if wide and int(hz) > max(wide)]
    rate_hz = min(2 * min(narrow, default=MOST_HZ), recorded_hz, MOST_HZ) if wide else patches.rate_hz
    if recorded_hz < _SLOW_HZ:
        rate_hz = max(recorded_hz, LEAST_HZ)
    if rate_hz == patches.rate_hz:
        return {}
    # an octave of room: what is quiet below may be what is looked for
    low_hz = max((float(hz) / 2 for hz, share in shares.items() if share >= _LOW), default=patches.low_hz)
    return {"rate_hz": rate_hz, "low_hz": low_hz, "normalise": "clip"}  # corpus statistics are those at 16 kHz


def about_patches(patches: AudioPatches | ImagePatches | VideoPatches, extent: Extent, shares: Shares) -> list[Line]:
    if isinstance(patches, AudioPatches):
        return _about_band(patches, extent, shares) + _about_sound(patches, extent)
    return (_about_frames(patches, extent) if isinstance(patches, VideoPatches) else []) + _about_size(patches, extent)


def _about_band(patches: AudioPatches, extent: Extent, shares: Shares) -> list[Line]:
    if not shares:
        energy = "Energy above half the rate is not measured in these sets (shard them again with --check full)"
    else:
        above = [f"{100 * share:.3g} % above {int(hz):,} Hz" for hz, share in shares.items() if share > 0]
        energy = f"Energy: {', '.join(above)}; a proposed rate leaves out at most {100 * _LOST:g} %"
    rate = (
        f"All audio is resampled to this rate, and nothing above {patches.rate_hz // 2:,} Hz is used. {energy}. "
        f"{LEAST_HZ:,} to {MOST_HZ:,}."
    )
    lines: list[Line] = [("rate_hz", patches.rate_hz, rate)]
    if patches.rate_hz != AudioPatches().rate_hz:
        why = ", since nearly all of the energy is above" if patches.low_hz > AudioPatches().low_hz else ""
        lines += [("low_hz", patches.low_hz, f"Mel bands begin here{why}.")]
        lines += [("normalise", patches.normalise, "Per clip, since the sets' statistics are at 16 kHz.")]
    return lines


def _about_sound(patches: AudioPatches, extent: Extent) -> list[Line]:
    window_s, (_, middle_s, longest_s) = patches.frames / 100, extent["duration_s"]
    if longest_s < window_s + 0.01:
        seen = "95 % of your clips are no longer and are not cut"
    else:
        seen = f"each pass takes a random window of a longer clip; half of yours are longer than {middle_s:.3g} s"
    window = (
        f"A window of {window_s:.3g} s (10 ms per frame): {seen}. Increase it for longer events; cost grows with it."
    )
    across = -(-patches.frames // patches.patch_frames)
    patch = f"A patch spans {10 * patches.patch_frames} ms: {across} of them per window."
    whole, rate = patches.rate_hz / 2, extent["rate_hz"][1]
    band = patches.high_hz or whole
    empty = ": the upper bands of those are empty" if band > rate / 2 else ""
    bands = (
        f"Mel bands end at {band:.0f} Hz (0: at {whole:.0f}). Half of your clips have a rate of {rate:.0f} Hz or less, "
        f"and no signal above half of it{empty}."
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
        f"half of your clips have {extent['frames'][1]:.0f} or fewer. A larger stride shows slower motion."
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
        f"Side in pixels; half of your clips have a short side of {side:.0f} or less, and without a crop they are "
        f"{scaled}. Increase it where details matter; cost grows with its square. A multiple of patch."
    )
    crop = (
        f"Smallest fraction of the area that a random crop keeps: {patches.crop_scale**0.5 * side:.0f} of {side:.0f} "
        "pixels here. 1: no crops, where position and scale must be kept."
    )
    return [("size", size, sides), ("patch", patches.patch, ""), ("crop_scale", patches.crop_scale, crop)]
