"""A run becomes a folder that loads back equal, or nothing at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forks
import pytest
import torch
from exports import NAMES, put_clip, tuned
from standins import PATCHES, STATISTICS, small

import bridle
from bridle import api
from bridle import config as configuration
from bridle.api.evaluation import _keep_classifier
from bridle.checkpoint import read_about, read_classifier, run_of, save_model, snapshot
from bridle.checkpoint.model_file import Snapshot
from bridle.errors import DataError, EnvironmentFault, NumericalError, UsageError
from bridle.export import export, safetensors
from bridle.export.card import model_card
from bridle.export.parity import noise
from bridle.export.subject import open_subject
from bridle.infer import Pretrained
from bridle.model import Bridle
from bridle.schema import Clip, Modality

CLIPS = {
    "audio": Clip("k", Modality.AUDIO, 0.1 * torch.sin(torch.arange(20000) * 0.1), 16000),
    "image": Clip("k", Modality.IMAGE, torch.arange(3 * 20 * 30).view(3, 20, 30).remainder(256).to(torch.uint8)),
    "video": Clip("k", Modality.VIDEO, torch.arange(9 * 3 * 400).view(9, 3, 20, 20).remainder(251).to(torch.uint8), 10),
}


def checkpoint(folder: Path, modality: str = "image", fitted: bool = True) -> tuple[Path, Bridle]:
    model = small(modality, fitted)
    folder.mkdir()
    save_model(snapshot(model), folder)
    return folder, model


@pytest.mark.parametrize("modality", list(PATCHES))
def test_an_export_loads_in_three_lines_and_is_equal(tmp_path: Path, modality: str) -> None:
    run, model = checkpoint(tmp_path / "run", modality)
    out = tmp_path / "some where" / "encoder"
    result = export(run, out=out)
    assert result["format"] == "safetensors"
    assert result["out"] == str(out)
    assert result["parity"] == {"features": 0.0, "codes": True, "logits": None}
    names = ["README.md", "config.yaml", "model.json", "model.safetensors", "preprocessing.json"]
    assert result["files"] == names == sorted(p.name for p in out.iterdir())
    assert [p.name for p in out.parent.iterdir()] == ["encoder"]  # nothing temporary left

    loaded, original, clip = bridle.load(out, device="cpu"), Pretrained(model), CLIPS[modality]
    assert torch.equal(loaded.embed(clip), original.embed(clip))
    assert torch.equal(loaded.tokenize(clip).codes_THWQ, original.tokenize(clip).codes_THWQ)


def test_files_of_an_unfinished_run_say_so(tmp_path: Path) -> None:
    run, told = tmp_path / "run", list[tuple[str, str]]()
    (run / "checkpoints").mkdir(parents=True)
    checkpoint(run / "checkpoints" / "step-00000005")
    limits = {"steps": 20, "epochs": None, "max_minutes": None}
    state = {"status": "interrupted", "preset": "image-tiny", "shards": [str(tmp_path / "gone")], "limits": limits}
    (run / "state.json").write_text(json.dumps(state))
    api.export(run, out=tmp_path / "out", on_event=lambda kind, message: told.append((kind, message)))
    said = "not finished (interrupted): step 5 of 20"
    assert told == [("warning", f"{run} is {said} is exported; continue training with bridle pretrain --resume {run}")]
    assert f"The run that made it is {said}.\n" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"| status | {said} |" in model_card(open_subject(run), "x", ["encoder"], "AutoProcessor")


def test_a_command_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    run, _ = checkpoint(tmp_path / "run")
    code = """
import sys, time
from bridle.export import onnx
from bridle_cli.main import main
onnx.write = lambda *arguments, **options: time.sleep(600)
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "export", str(run), "--format", "onnx", "--out", str(tmp_path / "out")]
    process = forks.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".out.*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate()
    assert (process.returncode, errors.count("Interrupted")) == (143, 1), errors
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_real_clips_in_a_process_of_its_own(tmp_path: Path) -> None:
    code = """
import sys, torch, bridle
for modality in sys.argv[2:]:
    model = bridle.load(f"{sys.argv[1]}/{modality}", device="cpu")
    clip = f"{sys.argv[1]}/{modality}/{dict(audio='clip.wav', image='photo.jpg', video='clip.mp4')[modality]}"
    torch.save([model.embed(clip), model.tokenize(clip).codes_THWQ], f"{sys.argv[1]}/{modality}.pt")
"""
    clips = {}
    for modality in PATCHES:
        export(checkpoint(tmp_path / f"{modality}-run", modality)[0], out=tmp_path / modality)
        put_clip(modality, tmp_path / modality)
        clips[modality] = tmp_path / modality / NAMES[modality]
    forks.run([sys.executable, "-c", code, str(tmp_path), *PATCHES], check=True)
    for modality, clip in clips.items():
        original = Pretrained(small(modality))
        vector_D, codes_THWQ = torch.load(tmp_path / f"{modality}.pt")
        assert (vector_D - original.embed(clip)).abs().max() < 1e-5
        assert torch.equal(codes_THWQ, original.tokenize(clip).codes_THWQ)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_classifier_is_one_again(tmp_path: Path, dtype: str) -> None:
    folder, head = tuned(small("image"), tmp_path / "tuned", multi=True)
    result = export(folder, dtype=dtype, out=tmp_path / "out")
    assert result["files"][1:3] == ["config.yaml", "head.safetensors"]
    assert 0 <= result["parity"]["logits"] < (0.5 if dtype == "bf16" else 1e-6)
    model, again = read_classifier(tmp_path / "out")
    assert (again.classes, again.multi_label, again.trained_on) == (head.classes, True, head.trained_on)
    batch = noise(model)
    assert (again.classifier(batch) - head.classifier(batch)).abs().max() == result["parity"]["logits"]
    assert read_about(tmp_path / "out")["finetuned"]["task"] == "folder"
    assert "--protocol head" in (tmp_path / "out" / "README.md").read_text()
    export(tmp_path / "out", out=tmp_path / "twice")  # and what was exported can be exported


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_smaller_weights_become_float32_again(tmp_path: Path, dtype: str) -> None:
    run, model = checkpoint(tmp_path / "run")
    result = export(run, dtype=dtype, out=tmp_path / "out")
    assert 0 < result["parity"]["features"] < 0.1
    assert result["parity"]["codes"] is True
    assert {value.dtype for value in bridle.load(tmp_path / "out", device="cpu").model.parameters()} == {torch.float32}
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (run, tmp_path / "out")]
    matrices = sum(one.numel() for one in model.encoder.parameters() if one.ndim > 1)
    assert sizes[0] - sizes[1] == pytest.approx(2 * matrices, abs=200)  # and a few letters of the header


def test_an_export_describes_itself(tmp_path: Path) -> None:
    run, model = checkpoint(tmp_path / "run")
    export(run, out=tmp_path / "encoder")
    assert configuration.load(file=tmp_path / "encoder" / "config.yaml") == model.config
    preprocessing = json.loads((tmp_path / "encoder" / "preprocessing.json").read_text())
    assert preprocessing["statistics"] == STATISTICS
    assert preprocessing["patches"]["size"] == 16
    assert 'bridle.load(".")' in (tmp_path / "encoder" / "README.md").read_text()


def test_an_untrained_model_has_no_codes_to_compare(tmp_path: Path) -> None:
    run, _ = checkpoint(tmp_path / "run", fitted=False)
    assert export(run, out=tmp_path / "encoder")["parity"] == {"features": 0.0, "codes": None, "logits": None}


def test_outputs_are_not_overwritten_unasked(tmp_path: Path) -> None:
    run, _ = checkpoint(tmp_path / "run")
    out = tmp_path / "encoder"
    export(run, out=out)
    (out / "README.md").write_text("old")
    with pytest.raises(UsageError, match="--overwrite"):
        export(run, out=out)
    assert (out / "README.md").read_text() == "old"
    export(run, out=out, overwrite=True)
    assert (out / "README.md").read_text() != "old"
    assert {p.name for p in tmp_path.iterdir()} == {"run", "encoder"}


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    run, _ = checkpoint(tmp_path / "run")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    mixed, _ = checkpoint(tmp_path / "mixed")
    export(run, out=tmp_path / "encoder")
    (tmp_path / "encoder" / "notes.txt").touch()
    for place in (tmp_path / "thesis", mixed, tmp_path / "encoder"):
        before = sorted(path.name for path in place.iterdir())
        with pytest.raises(UsageError, match="will not be replaced"):
            export(run, out=place, overwrite=True)
        assert sorted(path.name for path in place.iterdir()) == before


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    run, _ = checkpoint(tmp_path / "run")
    (tmp_path / "preprocessing.json").write_text("precious")
    with pytest.raises(UsageError, match="not a folder"):
        export(run, out=tmp_path / "preprocessing.json", overwrite=True)
    assert (tmp_path / "preprocessing.json").read_text() == "precious"


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_what_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type) -> None:
    run, _ = checkpoint(tmp_path / "run")
    export(run, out=tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("old")
    rename = os.rename

    def failing(path: Path, target: Path) -> None:
        if path.name.endswith(".partial"):
            raise fault
        rename(path, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises((EnvironmentFault, KeyboardInterrupt)):
        export(run, out=tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


def test_what_space_does_not_help_is_not_told_to_free_some(tmp_path: Path) -> None:
    run, _ = checkpoint(tmp_path / "run")
    with pytest.raises(EnvironmentFault, match="choose another --out") as caught:
        export(run, out=tmp_path / ("x" * 300))
    assert "Free some space" not in caught.value.hint


@pytest.mark.parametrize("name", ["step-00000001", "../checkpoints/step-00000001", "latest"])
def test_a_checkpoint_finds_its_run_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    checkpoint(checkpoints / "step-00000001")
    (checkpoints.parent / "state.json").write_text(json.dumps({"status": "interrupted", "preset": "", "shards": []}))
    (checkpoints / "latest").symlink_to("step-00000001")
    monkeypatch.chdir(checkpoints)
    assert run_of(name) == open_subject(Path(name)).run == tmp_path / "run"
    assert run_of("random") is run_of("") is None  # an untrained or unknown model is of no run, wherever one stands
    best = tmp_path / "checkpoints" / "best"
    best.parent.mkdir()  # of no run
    best.symlink_to(checkpoints / "step-00000001")
    assert run_of(str(best)) == tmp_path / "run"
    shutil.move(checkpoints, tmp_path / "larger disk")
    checkpoints.symlink_to(tmp_path / "larger disk")
    place = checkpoints / "step-00000001"
    assert run_of(str(place)) == open_subject(place).run == tmp_path / "run"


def test_a_classifier_knows_its_checkpoint_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, head = tuned(small("image"), tmp_path / "head")
    monkeypatch.chdir(tmp_path)
    result = dict.fromkeys(("task", "data", "metric", "value", "ci95", "recipe"))
    for checkpoint, wanted in (("run/step-1", str(tmp_path / "run" / "step-1")), ("random", "random")):
        _keep_classifier(small("image"), head, tmp_path / "out", {**result, "checkpoint": checkpoint})
        assert read_about(tmp_path / "out")["finetuned"]["checkpoint"] == wanted


def test_a_model_that_comes_back_different_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = checkpoint(tmp_path / "run")

    def spoilt(model: Snapshot, folder: Path) -> None:
        model.weights["encoder.embed.weight"][0, 0] += 1.0
        save_model(model, folder)

    monkeypatch.setattr(safetensors, "save_model", spoilt)
    with pytest.raises(NumericalError, match="differs"):
        export(run, out=tmp_path / "encoder")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_is_no_number_leaves_nothing(tmp_path: Path) -> None:
    """A weight that float16 cannot hold."""
    model = small("image")
    with torch.no_grad():
        model.encoder.embed.weight[0, 0] = 1e6
    (tmp_path / "run").mkdir()
    save_model(snapshot(model), tmp_path / "run")
    with pytest.raises(NumericalError, match="differs") as caught:
        export(tmp_path / "run", out=tmp_path / "half", dtype="fp16")
    assert "--dtype fp32" in caught.value.hint and "bridle doctor" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = checkpoint(tmp_path / "run")
    out = tmp_path / "out"

    def busy(*arguments: Any) -> dict[str, Any]:
        out.mkdir()
        (out / "thesis.txt").write_text("precious")
        return {"features": 0.0, "codes": True, "logits": None}

    monkeypatch.setattr(safetensors, "compare", busy)
    with pytest.raises(UsageError, match="exists"):
        export(run, out=out)
    assert (out / "thesis.txt").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    run, _ = checkpoint(tmp_path / "run")
    export(run, out=tmp_path / "real")
    (tmp_path / "real" / "config.yaml").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export(run, out=tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "config.yaml").read_text() != "old"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "real", "link"}


def test_the_read_me_runs_in_a_folder_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = checkpoint(tmp_path / "run")
    out = tmp_path / 'a "b" \nü.c'
    export(run, out=out)
    text = (out / "README.md").read_text()
    assert text.startswith('# a "b" ü.c: an encoder for image')
    put_clip("image", out)
    monkeypatch.chdir(out)
    exec(text.split("```python\n")[1].split("```")[0], found := {})
    assert found["vector"].shape == (16,)


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        export(tmp_path / "gone", out=tmp_path / "encoder")
    run, _ = checkpoint(tmp_path / "run")
    with pytest.raises(UsageError, match="safetensor"):
        export(run, format="safetensor", out=tmp_path / "encoder")
    (run / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="run"):
        export(run, out=tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
