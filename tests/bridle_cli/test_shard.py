"""`bridle shard` as a user runs it: a real set from a few generated sounds."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest

from bridle_cli.main import main

STABLE_KEYS = {"name", "modality", "samples", "shards", "bytes", "rejected", "seconds"}


def write_wav(path: Path, seconds: float, rate_hz: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(bytes(range(256)) * int(seconds * rate_hz * 2 / 256))


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of two sounds, and one file that is no sound."""
    monkeypatch.chdir(tmp_path)
    for name in ("low/a.wav", "low/b c.wav", "high/ä.wav", "high/d.wav"):
        write_wav(tmp_path / "raw" / name, 0.5)
    (tmp_path / "raw/high/broken.wav").write_bytes(b"RIFF but no more")
    return tmp_path / "raw"


def test_json_is_one_object_on_stdout_and_rejects_are_warned_about(raw: Path, capsys) -> None:
    assert main(["shard", "raw", "--json", "--workers", "1"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert out.count("\n") == 1
    assert result.keys() >= STABLE_KEYS
    assert (result["name"], result["modality"], result["samples"], result["rejected"]) == ("raw", "audio", 4, 1)
    assert "warning: skipped high/broken.wav: " in err
    (index,) = (path.name for path in Path("shards/raw").glob("index-*.npy"))
    assert sorted(path.name for path in Path("shards/raw").iterdir()) == [
        index,
        "manifest.json",
        "raw-000000.tar",
    ]

    assert main(["shard", "raw"]) == 2  # the set is there now
    assert "--overwrite" in capsys.readouterr().err


def test_dry_run_prints_the_plan_and_writes_nothing(raw: Path, capsys) -> None:
    assert main(["shard", "raw", "--dry-run"]) == 0
    out, _ = capsys.readouterr()
    assert ["samples", "5"] in [line.split() for line in out.splitlines()]
    assert not Path("shards").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 4, "nowhere"),
        (["raw", "--modality", "video"], 4, "no video files"),
        (["raw/low/a.wav"], 4, "bridle shard raw/low"),
        (["raw", "--labels", "missing.csv"], 4, "missing.csv"),
        (["raw", "--out", "raw"], 2, "raw"),
    ],
)
def test_bad_input_says_what_and_leaves_with_its_code(raw: Path, capsys, arguments, code, said) -> None:
    assert main(["shard", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert not Path("shards").exists()
