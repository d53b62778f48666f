"""What the measurements in a manifest say about training on its set, as warnings.

Each is one sentence with the figure and the remedy. Sets from before there were measurements have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from bridle.archive.corpus import merge_statistics
from bridle.archive.manifest import Manifest
from bridle.config.sections import AudioPatches, Config
from bridle.schema import Modality

_MOST_ABOVE = 0.05  # share of the energy above the model's band; speech recorded at 44.1 kHz has .02 above 8 kHz
_MOST_CANCELLED = 0.05  # share of the energy that cancels; stereo recordings have .01
_MOST_BEYOND = 0.001  # share of samples beyond full scale; lossy codecs overshoot in up to .0003 ...
_MOST_PEAK = 2.0  # ... and never that far
_MANY = 0.05  # of the images that use little of the range
_SHARED = 0.5  # share of the range of several sets that each of them should use


def notices(manifest: Manifest, config: Config | None = None) -> list[str]:
    """Warnings about one set.

    Args:
        manifest: of the set.
        config: of the model that is to be trained; None: its defaults.
    """
    patches = config.patches if config else None
    if manifest.modality is Modality.AUDIO:
        return _about_audio(manifest, patches if isinstance(patches, AudioPatches) else AudioPatches())
    return _about_images(manifest) if manifest.modality is Modality.IMAGE else []


def notices_together(manifests: Sequence[Manifest], config: Config) -> list[str]:
    """Warnings about sets that a model is to be trained on together, each with the name of its set."""
    found = [f"{one.name}: {notice}" for one in manifests for notice in notices(one, config)]
    low, high = merge_statistics(manifests).get("pixel_rules", {}).get("range", (0.0, 1.0))
    for one in manifests:
        own = one.statistics.get("pixel_rules", {}).get("range")
        if own and (share := (own[1] - own[0]) / (high - low)) < _SHARED:
            found.append(
                f"{one.name}: its images use {_percent(share)} of the range {low:g} to {high:g} that the sets share; "
                "train on each alone, or shard them with one --pixel-range"
            )
    return found


def energy_by_hz(statistics: Mapping[str, Any]) -> dict[str, float]:
    """Frequency in Hz, rising -> share of the corpus' energy at and above it; empty: not measured."""
    shares = statistics.get("energy_above_hz")
    known = shares.items() if isinstance(shares, dict) else ()
    valid = [(hz, share) for hz, share in known if hz.isdecimal() and _is_number(share)]
    return dict(sorted(valid, key=lambda one: int(one[0])))


def energy_above(statistics: Mapping[str, Any], hz: float) -> float | None:
    """Share of the energy at and above a frequency, between the measured ones interpolated; None: not measured."""
    if not (shares := energy_by_hz(statistics)):
        return None
    return float(np.interp(hz, [0.0, *map(float, shares)], [1.0, *shares.values()]))


def _about_audio(manifest: Manifest, patches: AudioPatches) -> list[str]:
    statistics, found = manifest.statistics, []
    limit_hz = patches.high_hz or patches.rate_hz / 2
    above = energy_above(statistics, limit_hz) or 0.0
    if above >= _MOST_ABOVE:
        stored = "shard without --transcode, and " if manifest.options.get("transcode") else ""
        found.append(
            f"{_percent(above)} of the energy is above {limit_hz:g} Hz, above what the model sees; {stored}raise "
            "patches.rate_hz (and patches.high_hz)"
        )
    cancelled, cancelling = (_number(statistics, name) for name in ("cancelled", "cancelling"))
    if cancelled >= _MOST_CANCELLED or cancelling > 0:
        found.append(
            f"channels cancel: {_percent(cancelled)} of the energy is lost in their mean ({_percent(cancelling)} of "
            "the clips lose more than half); choose one channel with bridle shard --channel"
        )
    beyond, peak = (_number(statistics, name) for name in ("beyond_full_scale", "peak"))
    clipped = manifest.options.get("transcode") or not patches.exact
    if clipped and (beyond >= _MOST_BEYOND or peak >= _MOST_PEAK):
        found.append(
            f"{_percent(beyond)} of the samples are beyond full scale (peak {peak:.3g}, full scale is 1) and are "
            "clipped; scale the files to within -1 to 1"
        )
    return found


def _number(statistics: Mapping[str, Any], name: str) -> float:
    value = statistics.get(name)
    return value if _is_number(value) else 0.0


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _about_images(manifest: Manifest) -> list[str]:
    found = _about_range(manifest.statistics)
    if frames := manifest.extent.get("frames"):
        found.append(
            f"some files hold several pages or frames ({frames[0]:g} to {frames[2]:g}), only the first is used; "
            "save each as a separate file to use all"
        )
    return found


def _about_range(statistics: Mapping[str, Any]) -> list[str]:
    """About the scale of images with more than 8 bits a channel."""
    try:
        deep, (low, high) = statistics["deep"], statistics["pixel_rules"]["range"]
        images, narrow, (least, most) = deep["images"], deep["narrow"], deep["values"]
        outside, squeezed = float(deep["outside"]), deep["squeezed"]
    except (KeyError, TypeError, ValueError):
        return []
    remedy = "set it with bridle shard --pixel-range LOW,HIGH"
    found = []
    if outside:
        found.append(
            f"images of more than 8 bits: {low:g} is black and {high:g} is white; {images} were measured, their values "
            f"are {least:g} to {most:g}, and {100 * outside:.3g} % of these are outside; {remedy}"
        )
    if narrow >= _MANY * images:
        found.append(
            f"{narrow} of {images} images use less than a twentieth of the range {low:g} to {high:g}; if they have "
            "another unit or instrument, shard them as a separate set"
        )
    elif squeezed:
        found.append(
            f"nine tenths of the values use less than a twentieth of the range {low:g} to {high:g}, as when a value "
            f"stands for missing data; {remedy}"
        )
    return found
