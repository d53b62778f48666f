"""Clips from which nothing can be learned: training says why and how to mend it, and neither crashes nor makes NaN."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from bridle import api

MEDIA = Path(__file__).parents[2] / "media"
SIZES = (
    "encoder.width=16", "encoder.depth=1", "encoder.heads=2", "predictor.width=16", "predictor.depth=1",
    "predictor.heads=2", "quantizer.width=4", "optim.batch_size=8", "train.log_every=2",
)  # fmt: skip


def train(raw: Path, modality: str, *sets: str) -> tuple[list[str], dict[str, Any]]:
    """The warnings and the result of a run through all kinds of phases."""
    said: list[str] = []
    shards = raw.parent / "shards"
    api.shard(raw, modality=modality, out=shards, workers=1)
    result = api.pretrain(
        shards,
        recipe=api.Recipe(preset=f"{modality}-tiny", sets=(*SIZES, "schedule.encoder=20", *sets)),
        out=raw.parent / "run",
        steps=9,
        on_event=lambda kind, **fields: said.append(fields["message"]) if kind == "warning" else None,
    )
    assert math.isfinite(result["loss"]) and all(map(math.isfinite, result["cross_entropy"]))
    assert result["skipped_steps"] == 0
    return said, result


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def sounds(count: int) -> list[Path]:
    return sorted((MEDIA / "audio").rglob("*.*"))[:count]


def test_copies_of_one_clip(raw: Path) -> None:
    for number in range(20):
        shutil.copy(sounds(1)[0], raw / f"{number}.wav")
    said, _ = train(raw, "audio")
    assert any("of 20 clips only 1 differ" in text and "leave the copies out" in text for text in said)


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence(raw: Path, level: float) -> None:
    for number in range(20):
        soundfile.write(raw / f"{number}.wav", np.full(8000 + number, level, np.float32), 16000)
    said, _ = train(raw, "audio")
    assert any("silence" in text for text in said)


def test_constant_pictures(raw: Path) -> None:
    for number in range(20):
        Image.new("RGB", (32, 32), (120, 10 * number, 200)).save(raw / f"{number}.png")
    said, _ = train(raw, "image")
    assert any("are constant" in text for text in said)


def test_a_corpus_of_one_clip(raw: Path) -> None:
    shutil.copy(sounds(1)[0], raw)
    said, _ = train(raw, "audio")
    assert any("a single clip" in text for text in said)


def test_more_codes_than_patches(raw: Path) -> None:
    for sound in sounds(3):
        shutil.copy(sound, raw)
    said, _ = train(raw, "audio", "quantizer.codes=4096")
    assert any("for the 4096 codes of a level" in text and "quantizer.codes" in text for text in said)


def test_a_batch_of_fewer_patches_than_codes(raw: Path) -> None:
    for sound in sounds(40):
        shutil.copy(sound, raw)
    said, _ = train(raw, "audio", "optim.batch_size=2", "quantizer.codes=256")
    assert any("a batch holds" in text and "optim.batch_size" in text for text in said)


def test_nothing_is_said_of_good_clips(raw: Path) -> None:
    for sound in sounds(40):
        shutil.copy(sound, raw)
    said, _ = train(raw, "audio")
    assert said == []


def test_what_is_not_a_number_never_reaches_training(raw: Path) -> None:
    for sound in sounds(12):
        shutil.copy(sound, raw)
    bad_S = np.sin(np.arange(8000) / 9).astype(np.float32)
    bad_S[100:200] = np.nan
    soundfile.write(raw / "nan.wav", bad_S, 16000, subtype="FLOAT")
    report = api.shard(raw, modality="audio", out=raw.parent / "first", workers=1)
    assert report["samples"] == 12 and report["rejected"] == 1
    train(raw, "audio")
