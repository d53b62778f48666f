"""Several sets as one corpus: quantiles of all samples together."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bridle import api
from bridle.archive import Manifest, merge_extent, read_manifest
from bridle.archive.manifest import parse_manifest
from bridle.errors import DataError


def made(folder: Path, lengths_s: list[float]) -> Manifest:
    """A set of clips of these lengths."""
    (folder / "raw").mkdir(parents=True)
    for clip, length_s in enumerate(lengths_s):
        tone_S = 0.1 * np.sin(np.arange(round(length_s * 1000)) * (1 + clip / 100))
        soundfile.write(folder / "raw" / f"{clip}.wav", tone_S, 1000)
    api.shard(folder / "raw", out=folder / "set", workers=1)
    return read_manifest(folder / "set")


@pytest.mark.usefixtures("inline")
def test_quantiles_of_several_sets_are_those_of_all_samples(tmp_path: Path) -> None:
    """Clips of 30 s, of .1 to 4 s and 20 of 1 s: of all 61 the 4th has .4 s, the 31st 1.1 s, the 58th 3.8 s."""
    lengths_s = [[30.0], [0.1 * (1 + clip) for clip in range(40)], [1.0] * 20]
    manifests = [made(tmp_path / str(number), lengths) for number, lengths in enumerate(lengths_s)]
    assert merge_extent(manifests)["duration_s"] == pytest.approx([0.4, 1.1, 3.8])
    assert merge_extent(manifests)["rate_hz"] == [1000.0] * 3
    assert merge_extent(manifests[1:2]) == manifests[1].extent
    old = [replace(manifest, spread={}) for manifest in manifests]  # from before there was a spread
    low, middle, high = merge_extent(old)["duration_s"]
    assert low == pytest.approx(0.4, abs=0.2) and middle == pytest.approx(1.1, abs=0.15) and 3 < high < 4


def test_values_of_a_spread_are_values_that_were_there(tmp_path: Path) -> None:
    """Half of the clips at 8 kHz, half at 16 kHz: no quantile lies between."""
    extent = {"duration_s": [1.0] * 3, "rate_hz": [8000.0, 8000.0, 16000.0]}
    spread = {"duration_s": [1.0] * 100, "rate_hz": [8000.0] * 50 + [16000.0] * 50}
    statistics = {"fbank_mean": 0.0, "fbank_std": 1.0}
    one = Manifest("one", "audio", [], 200, 0, statistics=statistics, extent=extent, spread=spread)
    other = replace(one, samples=100, spread=spread | {"rate_hz": [16000.0]}, extent=extent)
    assert merge_extent([one, other])["rate_hz"] == [8000.0, 16000.0, 16000.0]  # a third of 300 clips at 8 kHz
    content = {"format": "bridle-shards", "version": 1, "spread": {"duration_s": [math.nan]}}
    known = {"name": "a", "modality": "audio", "shards": [], "samples": 0, "bytes": 0}
    with pytest.raises(DataError, match="not finite numbers"):
        parse_manifest(content | known | {"statistics": statistics, "extent": extent}, tmp_path / "manifest.json")
