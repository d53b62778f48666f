"""Clips -> PatchBatch. Modality branches live here and in `bridle.media` alone."""

from __future__ import annotations

from typing import Any

from bridle.config.sections import AudioPatches, ImagePatches, VideoPatches
from bridle.patches.audio import AudioPatcher
from bridle.patches.image import ImagePatcher
from bridle.patches.patcher import Patcher
from bridle.patches.tubelet import VideoPatcher


def build_patcher(config: AudioPatches | ImagePatches | VideoPatches, statistics: dict[str, Any]) -> Patcher:
    """The patcher of a recipe; `statistics` are the corpus statistics of the manifest."""
    if isinstance(config, AudioPatches):
        patcher = AudioPatcher(config, statistics["fbank_mean"], statistics["fbank_std"])
        patcher.channel = statistics.get("channel")
        return patcher
    mean, std = statistics["pixel_mean"], statistics["pixel_std"]
    if isinstance(config, ImagePatches):
        return ImagePatcher(config, mean, std, statistics.get("pixel_rules"))
    return VideoPatcher(config, mean, std, statistics.get("rate_hz", 25.0))


__all__ = ["AudioPatcher", "ImagePatcher", "Patcher", "VideoPatcher", "build_patcher"]
