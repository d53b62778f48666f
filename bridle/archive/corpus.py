"""Several sets seen as one corpus: what a recipe adapts to and what normalises its batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bridle.archive.manifest import Manifest
from bridle.errors import DataError

QUANTILES = (0.05, 0.5, 0.95)


def merge_statistics(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Means and deviations over all sets, each weighted by its samples; `rate_hz` is the typical frame rate,
    `channel` the one of several that audio takes.

    Raises:
        DataError: the sets take different channels, or images of more than 8 bits by different rules.
    """
    weights = [manifest.samples for manifest in manifests]
    rules, merged = _pixel_rules(manifests), dict[str, Any]()
    for kind in ("fbank", "pixel"):
        if f"{kind}_mean" not in manifests[0].statistics:
            continue
        means, stds = zip(*(_moments(manifest, kind, rules.get("range")) for manifest in manifests), strict=True)
        mean = [_average(channel, weights) for channel in zip(*means, strict=True)]
        square = [
            _average([m * m + s * s for m, s in zip(ms, ss, strict=True)], weights)
            for ms, ss in zip(zip(*means, strict=True), zip(*stds, strict=True), strict=True)
        ]
        std = [math.sqrt(max(s - m * m, 1e-12)) for m, s in zip(mean, square, strict=True)]
        merged[f"{kind}_mean"], merged[f"{kind}_std"] = (mean[0], std[0]) if kind == "fbank" else (mean, std)
    channels = {channel for manifest in manifests if (channel := manifest.options.get("channel"))}
    if len(channels) > 1:
        raise DataError(
            f"the sets use different channels: {', '.join(map(str, sorted(channels)))}",
            "Shard them again with one --channel.",
        )
    if channels:
        merged["channel"] = channels.pop()
    if rules:
        merged["pixel_rules"] = rules
    rates = merge_extent(manifests).get("rate_hz")
    if rates:
        merged["rate_hz"] = rates[1]
    return merged


def _pixel_rules(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Those of all sets, with the widest range; none if one of them is from before there were rules."""
    rules = [manifest.statistics.get("pixel_rules", {}) for manifest in manifests]
    ranges = [one["range"] for one in rules if "range" in one]
    if ranges and not all(rules):
        old = manifests[rules.index({})]
        raise DataError(
            f"{old.folder} was sharded by an older BRIDLE, without the pixel range that the other sets have",
            "Shard it again with --overwrite.",
        )
    widest = {"range": [min(low for low, _ in ranges), max(high for _, high in ranges)]} if ranges else {}
    return {**rules[0], **widest} if all(rules) else {}


def _moments(manifest: Manifest, kind: str, widest: list[float] | None) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel; those of pixels that were measured in a range of the set, in the widest."""
    mean, std = (_as_list(manifest.statistics[f"{kind}_{name}"]) for name in ("mean", "std"))
    own = manifest.statistics.get("pixel_rules", {}).get("range")
    if not own or not widest:
        return mean, std
    scale, shift = (own[1] - own[0]) / (widest[1] - widest[0]), (own[0] - widest[0]) / (widest[1] - widest[0])
    return [scale * value + shift for value in mean], [scale * value for value in std]


def merge_extent(manifests: Sequence[Manifest]) -> dict[str, list[float]]:
    """5, 50 and 95 % quantiles of all samples together."""
    if len(manifests) == 1:
        return manifests[0].extent
    merged: dict[str, list[float]] = {}
    for key in manifests[0].extent:
        parts = [(_spread(manifest, key), manifest.samples) for manifest in manifests if key in manifest.extent]
        values_V = np.concatenate([values for values, _ in parts])
        weights_V = np.concatenate([np.full(len(values), samples / len(values)) for values, samples in parts])
        order_V = values_V.argsort()
        passed_V = weights_V[order_V].cumsum()
        at_Q = np.searchsorted(passed_V, [q * passed_V[-1] for q in QUANTILES])
        merged[key] = values_V[order_V][at_Q].tolist()
    return merged


def _spread(manifest: Manifest, key: str) -> np.ndarray:
    """Values that stand for all samples of a set in equal parts; of an older set by way of its quantiles."""
    if values := manifest.spread.get(key):
        return np.array(values)
    return np.interp(np.linspace(0.005, 0.995, 100), QUANTILES, manifest.extent[key])


def _average(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / max(sum(weights), 1)


def _as_list(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]
