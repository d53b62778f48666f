"""The five commands in a row on a few generated sounds: the keys that scripts rely on, and clean streams."""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path

import pytest

from bridle_cli.main import main


def write_tone(path: Path, pitch_hz: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        samples = (round(9000 * math.sin(2 * math.pi * pitch_hz * n / 16000)) for n in range(6400))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("path")
    for number in range(6):
        write_tone(folder / f"tones/low/{number}.wav", 200 + 10 * number)
        write_tone(folder / f"tones/high/{number}.wav", 2000 + 50 * number)
    return folder


def objects(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_raw_folder_to_export(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(folder)
    objects(capsys, "shard", "tones", "--workers", "1")

    assert main(["pretrain", "--dry-run"]) == 0
    assert "audio-tiny" in capsys.readouterr().out
    assert not Path("runs").exists()

    small = ["--set", "encoder={width: 16, depth: 1, heads: 2}", "--set", "predictor={width: 16, depth: 1, heads: 2}"]
    (run,) = objects(capsys, "pretrain", "--steps", "4", "--device", "cpu", "--set", "quantizer.codes=8", *small)
    stable = {"run", "modality", "preset", "steps", "seconds", "clips", "loss", "usage", "checkpoint"}
    assert run.keys() >= stable
    assert (run["run"], run["modality"], run["preset"]) == ("runs/tones-audio-tiny", "audio", "audio-tiny")
    assert len(run["usage"]) == 4
    assert Path(run["checkpoint"]).is_dir()

    first, second = objects(capsys, "tokenize", "tones/low/0.wav", "tones/high/0.wav")
    assert first.keys() >= {"file", "levels", "grid", "codes", "times"}
    assert second["file"] == "tones/high/0.wav"
    assert [len(first["codes"]), len(first["codes"][0]), len(first["codes"][0][0])] == [
        first["levels"],
        *first["grid"][:2],
    ]
    assert len(first["times"]) == first["grid"][0]

    evaluate = ["eval", "--task", "folder", "--data", "tones", "--folds", "3", "--seed", "1"]
    stable = {"task", "protocol", "checkpoint", "metric", "value", "ci95", "n_train", "n_test", "seed"}
    (trained,) = objects(capsys, *evaluate)
    (untrained,) = objects(capsys, *evaluate, "--checkpoint", "random", "--preset", "audio-tiny", *small)
    for result in (trained, untrained):
        assert result.keys() >= stable
        assert (result["n_test"], result["seed"], result["protocol"]) == (12, 1, "knn")
        low, high = result["ci95"]
        assert low <= result["value"] <= high
    assert untrained["checkpoint"] == "random"

    (exported,) = objects(capsys, "export", run["run"], "--format", "safetensors", "--out", "encoder")
    assert exported.keys() >= {"format", "out", "files", "parity"}
    assert objects(capsys, "tokenize", "tones/low/0.wav", "--checkpoint", "encoder") == [first]

    assert main(["pretrain", "--resume", "runs/nowhere"]) == 4
    assert main(["pretrain", "--preset", "image-tiny"]) == 4  # these shards are sounds
    assert main(["pretrain", "--out", run["run"], "--steps", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
