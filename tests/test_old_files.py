"""What version 6bab73d left on disk is read, gone on with and gives what it gave then; tests/old/make.py made it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bridle
from bridle.formats import read_vectors
from bridle_cli.main import main

OLD = Path(__file__).parent / "old" / "6bab73d"
KINDS = ("audio", "image", "video")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that commands may write to, as the working directory: its runs name their sets by relative paths."""
    place = tmp_path / "old"
    shutil.copytree(OLD, place)
    for file in (*place.rglob("state.json"), *place.rglob("work.json")):
        file.write_text(file.read_text().replace("/srv/old", str(place)))
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def bridle_json(old: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> list[Any]:
        capfd.readouterr()
        try:
            code = main([*arguments, "--json"])
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        assert not code, err
        try:
            return [json.loads(out)]
        except ValueError:
            return [json.loads(line) for line in out.splitlines()]

    return run


def _keys(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path}.union(*(_keys(inner, f"{path}.{key}") for key, inner in value.items()))
    if isinstance(value, list):
        return {path}.union(*(_keys(inner, f"{path}[]") for inner in value))
    return {path}


def _same_codes(found: list[Any], expected: list[Any]) -> None:
    """All but a tie in a thousand, of the same files, at the same times."""
    assert [item.file for item in found] == [item.file for item in expected] and expected
    for new, then in zip(found, expected, strict=True):
        assert new.codes_THWQ.shape == then.codes_THWQ.shape
        assert new.times_T == pytest.approx(then.times_T)
    pairs = [new.codes_THWQ == then.codes_THWQ for new, then in zip(found, expected, strict=True)]
    assert np.concatenate([pair.numpy().ravel() for pair in pairs]).mean() >= 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_sets_are_whole_and_take_more_files(kind: str, bridle_json: Any, old: Path) -> None:
    bridle_json("shard", "info", f"shards/{kind}")
    bridle_json("shard", "verify", f"shards/{kind}")
    before = json.loads((old / "json" / f"shard-{kind}.json").read_text())
    more = next(file for file in sorted((old / "raw" / kind).glob("*/*")))
    shutil.copy(more, more.with_name(f"added{more.suffix}"))
    [after] = bridle_json("shard", f"raw/{kind}", "--out", f"shards/{kind}", "--resume")
    assert after["samples"] == before["samples"] + 1
    assert _keys(before) <= _keys(after)
    bridle_json("shard", "verify", f"shards/{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_run_gives_the_codes_it_gave(kind: str, bridle_json: Any, old: Path) -> None:
    bridle_json("tokenize", f"shards/{kind}", "--checkpoint", f"runs/{kind}", "--out", "new.codes")
    _same_codes(bridle.read_codes("new.codes"), bridle.read_codes(f"{kind}.codes"))


@pytest.mark.parametrize("name", ["audio.npz", "audio.safetensors", "audio.parquet", "with-codes/audio"])
def test_each_form_of_codes_is_read(name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    found = sorted(bridle.read_codes(OLD / name), key=lambda item: item.file)
    _same_codes(found, sorted(bridle.read_codes(OLD / "audio.codes"), key=lambda item: item.file))


@pytest.mark.parametrize("name", ["vectors.npz", "vectors.safetensors", "vectors.parquet", "steps.npz"])
def test_vectors_are_read_searched_and_made_again(name: str, bridle_json: Any, old: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    then = read_vectors(old / name)
    per = ("--per", "step") if name == "steps.npz" else ()
    bridle_json("embed", "shards/audio", "--checkpoint", "runs/audio", "--out", "again.npz", *per)
    now = read_vectors(Path("again.npz"))
    assert now.files == then.files
    np.testing.assert_allclose(now.vectors_RD, then.vectors_RD, atol=1e-4)
    query = str(next((old / "raw/audio").glob("*/*")))
    assert bridle_json("search", query, "--index", name, "--checkpoint", "runs/audio", "--top", "3")


def test_an_interrupted_run_goes_on(bridle_json: Any, old: Path) -> None:
    [now] = bridle_json("pretrain", "--resume", "runs/stopped")
    assert _keys(json.loads((old / "json/pretrain-audio.json").read_text())) <= _keys(now)
    assert json.loads((old / "runs/stopped/state.json").read_text())


@pytest.mark.parametrize("command, name", [("embed", "unfinished.npz")])
def test_unfinished_work_goes_on_or_says_why_not(
    command: str, name: str, old: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (old / f".{name}.parts" / "work.json").is_file()
    arguments = [command, "raw/audio", "--checkpoint", "runs/audio", "--out", name]
    try:
        code = main([*arguments, "--resume"])
    except SystemExit as stop:
        code = stop.code
    if code:
        error = capfd.readouterr().err
        assert name in error and "--overwrite" in error and "Traceback" not in error
    else:
        assert (old / name).is_file()


def test_results_are_judged_again_and_compared(bridle_json: Any, old: Path) -> None:
    then = json.loads((old / "json/eval.json").read_text())
    [now] = bridle_json("eval", "--data", "shards/audio", "--checkpoint", "runs/audio", "--folds", "2")
    assert _keys(then) <= _keys(now)
    [compared] = bridle_json("compare", "runs/audio", "other")
    assert _keys(json.loads((old / "json/compare.json").read_text())) <= _keys(compared)
    bridle_json("eval", "--data", "shards/audio", "--protocol", "head", "--checkpoint", "tuned")


def test_report_runs_and_settings(bridle_json: Any, old: Path) -> None:
    bridle_json("report", "runs/audio", "--out", "report.html", "--clips", "2")
    assert (old / "report.html").stat().st_size > 10_000
    assert len(bridle_json("runs")) >= 1
    assert bridle_json("config", "validate", "settings.yaml")


def test_an_old_run_is_exported_and_old_exports_load(bridle_json: Any, old: Path) -> None:
    [now] = bridle_json("export", "runs/audio", "--format", "safetensors", "--out", "exported")
    assert _keys(json.loads((old / "json/export-safetensors.json").read_text())) <= _keys(now)
    clip = next((old / "raw/audio").glob("*/*"))
    expected = bridle.load("runs/audio").embed(clip)
    for name in ("exports/safetensors", "exported"):
        np.testing.assert_allclose(bridle.load(name).embed(clip), expected, atol=1e-5)


HUGGING = """
import numpy, torch
from transformers import AutoFeatureExtractor, AutoModel
processor = AutoFeatureExtractor.from_pretrained(".", trust_remote_code=True)
model = AutoModel.from_pretrained(".", trust_remote_code=True).eval()
inputs = processor(numpy.load("sound.npy"), sampling_rate=16000, return_tensors="pt")
with torch.inference_mode():
    numpy.save("mean.npy", model(**inputs).pooler_output[0].numpy())
"""


def test_an_old_hugging_face_export_gives_what_the_run_gives(old: Path) -> None:
    pytest.importorskip("transformers")
    folder = old / "exports" / "hf"
    sound = np.random.default_rng(0).normal(0, 0.1, 4800).astype(np.float32)
    np.save(folder / "sound.npy", sound)
    environment = {**os.environ, "HF_MODULES_CACHE": str(old / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", HUGGING], cwd=folder, env=environment, check=True)
    expected = bridle.load("runs/audio").embed(sound, rate_hz=16000)
    np.testing.assert_allclose(np.load(folder / "mean.npy"), expected, atol=1e-4)
