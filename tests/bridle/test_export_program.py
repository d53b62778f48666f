"""`torch.export` programs: they load and compute the same where this library is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import MEDIA, Exported, clip_of, expected, learned, put_clip, run_readme, saved, tuned
from standins import small

from bridle import api
from bridle.errors import EnvironmentFault, NumericalError, UsageError
from bridle.export import torch_export
from bridle.model import Bridle

FILES = ["README.md", "config.yaml", "encoder.pt2", "preprocess.py", "preprocessing.json", "tokenizer.pt2"]
MODELS: dict[str, Callable[[], Bridle]] = {
    "audio": lambda: small("audio"),
    "image": lambda: learned("image"),
    "video": lambda: small("video"),
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("modality", list(MODELS))
def test_a_program_computes_the_same_without_this_library(tmp_path: Path, modality: str) -> None:
    model, out, head = MODELS[modality](), tmp_path / "out", None
    if modality == "video":  # one with a classifier
        run, head = tuned(model, tmp_path / "run", multi=True)
        model.encoder.load_state_dict(head.classifier.encoder.state_dict())
    else:
        run = saved(model, tmp_path / "run")
    result = api.export(run, format="torch-export", out=out, data=MEDIA / modality)
    assert result.keys() == {"format", "out", "files", "parity"}
    assert result["files"] == sorted(
        [*FILES, *(["classes.json"] if head else []), *(["pixels.py"] if modality != "audio" else [])]
    )
    assert result["parity"]["features"] < 1e-5
    assert result["parity"]["codes"] == 1.0
    for path in out.glob("*.pt2"):
        assert b"bridle/" not in path.read_bytes()  # no paths of this machine

    wanted = expected(model, put_clip(modality, out), head)
    found = run_readme(out, {"bridle"})
    assert found.keys() == wanted.keys()
    assert np.array_equal(found["codes"], wanted["codes"])
    for name in ("features", "class_token", "mean"):
        assert np.abs(found[name] - wanted[name]).max() < 2e-4
    if head:
        assert result["parity"]["logits"] < 1e-5
        assert np.abs(found["logits"] - wanted["logits"]).max() < 2e-3
        assert "the sigmoid of each" in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An encoder of sound in float16."""
    folder = tmp_path_factory.mktemp("half")
    model = small("audio")
    run = saved(model, folder / "run")
    result = api.export(run, format="torch-export", dtype="fp16", out=folder / "out", data=MEDIA / "audio")
    return Exported(model, run, folder / "out", result)


def test_bf16_is_kept_and_computed_as_float32(tmp_path: Path) -> None:
    run, _ = tuned(small("audio"), tmp_path / "run")
    out = tmp_path / "out"
    result = api.export(run, format="torch-export", dtype="bf16", part="encoder", out=out, data=MEDIA / "audio")
    figures = result["parity"]
    assert 1e-4 < figures["features"] < 0.2
    assert 1e-4 < figures["logits"] < 0.5
    assert figures["tolerance"] == {"cosine": 0.99}
    program = torch.export.load(out / "encoder.pt2")
    assert {value.dtype for value in program.state_dict.values() if value.dim() > 1} == {torch.bfloat16}


def test_half_the_bytes_of_the_encoder_and_the_same_codes(half: Exported) -> None:
    assert 1e-5 < half.result["parity"]["features"] < 5e-2
    assert half.result["parity"]["codes"] == 1.0
    program = torch.export.load(half.out / "encoder.pt2")
    weights = {name: value.dtype for name, value in program.state_dict.items() if value.dim() > 1}
    assert set(weights.values()) == {torch.float16}


@pytest.mark.parametrize("clips", [1, 3, 7])
def test_any_number_of_clips_of_any_length(half: Exported, clips: int) -> None:
    data = clip_of("audio").data
    views = [data[: 3000 + 700 * number].mul(32767).round().to(torch.int16) for number in range(clips)]
    batch = half.model.patcher(views)
    features, class_token, _ = torch_export.opened(half.out / "encoder.pt2")(batch)
    wanted, class_B1D = half.model.features_and_class(batch)
    assert (features - wanted).abs().max() < 1e-2
    assert (class_token - class_B1D[:, 0]).abs().max() < 1e-2
    (codes,) = torch_export.opened(half.out / "tokenizer.pt2")(batch)
    assert torch.equal(codes, half.model.tokenize(batch))


def test_what_goes_wrong_leaves_nothing(half: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--overwrite"):
        api.export(half.run, format="torch-export", out=half.out)
    with pytest.raises(UsageError, match="--part encoder"):
        api.export(saved(small("audio", fitted=False), tmp_path / "run"), format="torch-export", out=tmp_path / "out")

    monkeypatch.setattr(torch_export, "opened", lambda path: lambda batch: [torch.zeros(1)] * 3)
    with pytest.raises(NumericalError, match="not all features are finite"):
        api.export(half.run, format="torch-export", part="encoder", out=tmp_path / "out", data=MEDIA / "audio")

    def full(path: Path, content: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        api.export(half.run, format="torch-export", part="encoder", out=tmp_path / "out", data=MEDIA / "audio")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
