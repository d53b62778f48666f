"""`torch.export` programs: they load and compute the same where this library is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import MEDIA, Exported, clip_of, expected, learned, put_clip, run_readmes, saved, tuned
from standins import small

from bridle import api
from bridle.errors import EnvironmentFault, NumericalError, UsageError
from bridle.export import torch_export
from bridle.export.describe import program_readme
from bridle.model import Bridle

FILES = ["README.md", "config.yaml", "encoder.pt2", "preprocess.py", "preprocessing.json", "tokenizer.pt2"]
MODELS: dict[str, Callable[[], Bridle]] = {
    "audio": lambda: small("audio"),
    "image": lambda: learned("image"),
    "video": lambda: small("video"),
}
pytestmark = pytest.mark.usefixtures("one_thread")
Arrays = dict[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True)
class Found:
    """An export, what the model itself finds in a clip, and what the code of the read-me found."""

    out: Path
    result: dict[str, Any]
    wanted: Arrays
    found: Arrays = field(default_factory=dict)


@pytest.fixture(scope="module")
def exported(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """Each modality's small model, the one of video with a classifier; the codes of the read-mes run in one process."""
    done = dict[str, Found]()
    for modality, make in MODELS.items():
        folder = tmp_path_factory.mktemp(modality)
        model, out, head = make(), folder / "out", None
        if modality == "video":
            run, head = tuned(model, folder / "run", multi=True)
            model.encoder.load_state_dict(head.classifier.encoder.state_dict())
        else:
            run = saved(model, folder / "run")
        result = api.export(run, format="torch-export", out=out, data=MEDIA / modality)
        done[modality] = Found(out, result, expected(model, put_clip(modality, out), head))
    found = run_readmes([one.out for one in done.values()], {"bridle"})
    return {name: replace(one, found=values) for (name, one), values in zip(done.items(), found, strict=True)}


@pytest.mark.parametrize("modality", list(MODELS))
def test_a_program_computes_the_same_without_this_library(exported: dict[str, Found], modality: str) -> None:
    one, has_head = exported[modality], modality == "video"
    assert one.result.keys() == {"format", "out", "files", "parity"}
    assert one.result["files"] == sorted(
        [*FILES, *(["classes.json"] if has_head else []), *(["pixels.py"] if modality != "audio" else [])]
    )
    assert one.result["parity"]["features"] < 1e-5
    assert one.result["parity"]["codes"] == 1.0
    for path in one.out.glob("*.pt2"):
        assert b"bridle/" not in path.read_bytes()  # no paths of this machine

    assert one.found.keys() == one.wanted.keys()
    assert np.array_equal(one.found["codes"], one.wanted["codes"])
    for name in ("features", "class_token", "mean"):
        assert np.abs(one.found[name] - one.wanted[name]).max() < 2e-4
    if has_head:
        assert one.result["parity"]["logits"] < 1e-5
        assert np.abs(one.found["logits"] - one.wanted["logits"]).max() < 2e-3
        assert "the sigmoid of each" in (one.out / "README.md").read_text()


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


@pytest.mark.parametrize(("channel", "said"), [(None, "average the channels of other"), (2, "take channel 2, counted")])
def test_the_read_me_says_which_channel_the_model_takes(channel: int | None, said: str) -> None:
    model = small("audio")
    model.patcher.channel = channel
    assert said in program_readme(model, None, "out", "", {"encoder": ""}, [])


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
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        api.export(half.run, format="torch-export", part="encoder", out=tmp_path / "out", data=MEDIA / "audio")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
