"""What the measurements in a manifest say about training on its set, as warnings.

Each is one sentence with the figure and the remedy. Sets from before there were measurements have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridle.config.sections import Config
from bridle.schema import Modality
from bridle.sharding.manifest import Manifest

_MANY = 0.05  # of the images that use little of the range


def notices(manifest: Manifest, config: Config | None = None) -> list[str]:
    """Warnings about one set.

    Args:
        manifest: of the set.
        config: of the model that is to be trained; None: its defaults.
    """
    return _about_images(manifest) if manifest.modality is Modality.IMAGE else []


def _about_images(manifest: Manifest) -> list[str]:
    found = _about_range(manifest.statistics)
    if frames := manifest.extent.get("frames"):
        found.append(
            f"some files hold several pages or frames ({frames[0]:g} to {frames[2]:g}), of which the first is used; "
            "save each as a file of its own to use all"
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
    found = [
        f"images of more than 8 bits: {low:g} is black and {high:g} is white; {images} of them were measured, their "
        f"values are {least:g} to {most:g}, and {100 * outside:.3g} % of these are outside; {remedy}"
    ]
    if narrow >= _MANY * images:
        found.append(
            f"{narrow} of {images} images use less than a twentieth of the range {low:g} to {high:g}: if they are of "
            "another unit or instrument, shard them as a set of their own"
        )
    elif squeezed:
        found.append(
            f"nine tenths of the values use less than a twentieth of the range {low:g} to {high:g}, as when a value "
            f"stands for missing data; {remedy}"
        )
    return found
