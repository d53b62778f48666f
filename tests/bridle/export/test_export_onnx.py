"""ONNX: what onnxruntime computes is what the model computes, in a process without PyTorch too."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from exports import MEDIA, Exported, clip_of, code_in, codes_in, expected, learned, put_clip, run_readme, saved, tuned
from standins import PATCHES, SMALL, STATISTICS, small

from bridle import api, progress
from bridle.config.sections import Config
from bridle.errors import DataError, EnvironmentFault, NumericalError, UsageError
from bridle.export import onnx, parity
from bridle.export.programs import INPUTS, example_of, program_of
from bridle.export.subject import open_subject
from bridle.model import Bridle
from bridle.schema import Clip, PatchBatch

pytestmark = [
    pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs the extra [onnx]"),
    pytest.mark.usefixtures("one_thread"),
]
FILES = ["README.md", "config.yaml", "encoder.onnx", "preprocess.py", "preprocessing.json", "tokenizer.onnx"]
OF_PIXELS = sorted([*FILES, "pixels.py"])
MODELS: dict[str, Callable[[], Bridle]] = {
    "audio": lambda: learned("audio"),
    "image": lambda: small("image"),
    "video": lambda: small("video"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A modality's small model as ONNX, exported once."""
    done: dict[str, Exported] = {}

    def of(modality: str) -> Exported:
        if modality not in done:
            folder = tmp_path_factory.mktemp(modality)
            model = MODELS[modality]()
            run = saved(model, folder / "run")
            result = api.export(run, format="onnx", out=folder / "out", data=MEDIA / modality)
            done[modality] = Exported(model, run, folder / "out", result)
        return done[modality]

    return of


@pytest.mark.parametrize("modality", list(MODELS))
def test_features_and_codes_are_those_of_the_model(exported: Callable[[str], Exported], modality: str) -> None:
    one = exported(modality)
    assert one.result.keys() == {"format", "out", "files", "parity"}
    assert one.result["files"] == (FILES if modality == "audio" else OF_PIXELS)
    figures = one.result["parity"]
    assert figures["features"] < 2e-5
    assert (figures["codes"], figures["ties"], figures["clips"]) == (1.0, 0, 16)
    assert figures["data"] == str(MEDIA / modality)
    assert figures["tolerance"] == {"features": 1e-4}
    assert json.dumps(one.result)
    assert [path.name for path in one.out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("modality", list(MODELS))
def test_the_code_in_the_read_me_runs_without_pytorch(exported: Callable[[str], Exported], modality: str) -> None:
    one = exported(modality)
    wanted = expected(one.model, put_clip(modality, one.out))
    found = run_readme(one.out, {"torch", "torchaudio", "torchvision", "bridle"})
    assert found.keys() == wanted.keys()
    assert np.array_equal(found["codes"], wanted["codes"])
    for name in ("features", "class_token", "mean"):
        assert np.abs(found[name] - wanted[name]).max() < 2e-4  # preprocessing is another's, too


def test_a_classifier_comes_along(tmp_path: Path) -> None:
    model, out = small("image"), tmp_path / "out"
    run, head = tuned(model, tmp_path / "run", classes=15)
    model.encoder.load_state_dict(head.classifier.encoder.state_dict())
    result = api.export(run, format="onnx", part="encoder", out=out, data=MEDIA / "image")
    assert result["files"] == sorted(["classes.json", *OF_PIXELS[:-1]])
    assert result["parity"]["logits"] < 1e-4
    assert json.loads((out / "classes.json").read_text()) == {"classes": head.classes, "multi_label": False}
    assert "kind 11 and 3 more" in (out / "README.md").read_text()
    wanted = expected(model, put_clip("image", out), head)
    found = run_readme(out, {"torch", "torchaudio", "torchvision", "bridle"})
    assert np.abs(found["logits"] - wanted["logits"]).max() < 2e-3


def test_a_classifier_that_differs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("image")
    run, head = tuned(model, tmp_path / "run")
    model.encoder.load_state_dict(head.classifier.encoder.state_dict())
    program = program_of(model, "encoder", classifier=head.classifier)

    def opened(path: Path) -> Any:
        def run(batch: PatchBatch) -> list[torch.Tensor]:
            found = program(batch.x_BNP, batch.coords_BN3, batch.valid_BN)
            return [*found[:3], found[3] + 0.01]

        return run

    monkeypatch.setattr(onnx, "write", lambda program, example, path, **_: path.touch())
    monkeypatch.setattr(onnx, "opened", opened)
    with pytest.raises(NumericalError, match="logits by up to 0"):
        api.export(run, format="onnx", part="encoder", out=tmp_path / "out", data=MEDIA / "image")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_documentation_shows_the_same_code(exported: Callable[[str], Exported]) -> None:
    documentation = Path(__file__).parents[3] / "docs" / "export.md"
    assert codes_in(documentation)[0] == code_in(exported("audio").out / "README.md")


def test_any_number_of_clips_of_any_length(exported: Callable[[str], Exported]) -> None:
    one, data = exported("audio"), clip_of("audio").data.repeat(3)
    assert len(data) > one.model.patcher.samples
    views = [one.model.patcher.windows(Clip("k", "audio", data[:length]))[0][0] for length in (3000, 20000, 9000)]
    encoder, tokenizer = (onnx.opened(one.out / f"{part}.onnx") for part in ("encoder", "tokenizer"))
    for some in (views[:1], views, views[1:2], [*views, *views, *views]):
        batch = one.model.patcher(some)
        features_BND, class_B1D = one.model.features_and_class(batch)
        found = encoder(batch)
        assert (found[0] - features_BND).abs().max() < 2e-5
        assert (found[1] - class_B1D[:, 0]).abs().max() < 2e-5
        assert torch.equal(tokenizer(batch)[0], one.model.tokenize(batch))
    assert not batch.valid_BN.all()
    assert (found[0][~batch.valid_BN] == 0).all()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bridle, Path, int]:
    """An encoder of which weights are the larger part, its folder, and the bytes of its ONNX file in float32."""
    torch.manual_seed(0)
    sections = {**SMALL, "encoder": {"width": 64, "depth": 1, "heads": 2}}
    model = Bridle(Config.model_validate({"patches": PATCHES["image"], **sections}), STATISTICS).eval()
    folder = tmp_path_factory.mktemp("wide")
    onnx.write(program_of(model, "encoder"), example_of(model), folder / "full.onnx", opset=None, dtype="fp32")
    return model, saved(model, folder / "run"), (folder / "full.onnx").stat().st_size


@pytest.mark.parametrize(("dtype", "share"), [("fp16", 0.75), ("bf16", 0.75), ("int8", 0.65)])
def test_smaller_weights_make_smaller_files(
    wide: tuple[Bridle, Path, int], tmp_path: Path, dtype: str, share: float
) -> None:
    (model, run, full), out = wide, tmp_path / "out"
    result = api.export(run, format="onnx", out=out, part="encoder", dtype=dtype, data=MEDIA / "image")
    assert result["files"] == [name for name in OF_PIXELS if name != "tokenizer.onnx"]  # and nothing in between
    assert (out / "encoder.onnx").stat().st_size < share * full
    figures = result["parity"]
    assert figures["codes"] is None and figures["features"] > 1e-5
    assert figures["cosine"] > 0.999
    if dtype == "int8":
        assert cosine_with_saturation(out / "encoder.onnx", model) > 0.999


def cosine_with_saturation(path: Path, model: Bridle) -> float:
    """The mean cosine of patch features, where pairs of products are summed in 16 bits: on CPUs without VNNI."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class MatMulInteger(OpRun):  # type: ignore[misc]
        def _run(self, left: Any, right: Any, left_zero: Any, right_zero: Any) -> tuple[Any]:
            assert left.dtype == np.uint8 and right.dtype == np.int8 and not right_zero.any()
            a, b = left.astype(np.int32), right.astype(np.int32)
            products = a[..., None] * b  # rows, inner, columns
            pairs = products[..., ::2, :] + products[..., 1::2, :]
            return ((pairs.clip(-(2**15), 2**15 - 1).sum(-2) - int(left_zero) * b.sum(0)).astype(np.int32),)

    batch = model.patcher([view for view, _ in model.patcher.windows(clip_of("image"))])
    inputs = (value.numpy() for value in (batch.x_BNP, batch.coords_BN3, batch.valid_BN))
    feeds = dict(zip(INPUTS, inputs, strict=True))
    found = ReferenceEvaluator(str(path), new_ops=[MatMulInteger]).run(None, feeds)[0]
    return float(torch.cosine_similarity(torch.from_numpy(found), model.features_and_class(batch)[0], dim=-1).mean())


@pytest.mark.parametrize("opset", [onnx.OPSETS[0], onnx.OPSETS[-1]])
def test_every_opset_that_is_offered(tmp_path: Path, opset: int) -> None:
    import onnx as reader

    run = saved(small("image", fitted=False), tmp_path / "run")  # without codes there still is an encoder
    result = api.export(run, format="onnx", out=tmp_path / "out", part="encoder", opset=opset, data=MEDIA / "image")
    assert result["parity"]["features"] < 2e-5
    assert [one.version for one in reader.load(tmp_path / "out" / "encoder.onnx").opset_import] == [opset]


def test_files_say_nothing_of_the_machine(exported: Callable[[str], Exported]) -> None:
    for path in exported("image").out.glob("*.onnx"):
        assert b".py" not in path.read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "onxx"}, "did you mean 'onnx'"),
        ({"opset": 17}, "18 to 22"),
        ({"opset": 23}, "18 to 22"),
        ({"dtype": "fp8"}, "Choose from fp32, fp16, bf16, int8"),
        ({"format": "torch-export", "dtype": "int8"}, "Choose from fp32, fp16, bf16"),
        ({"format": "safetensors", "dtype": "int8"}, "Choose from fp32, fp16, bf16"),
        ({"format": "huggingface", "dtype": "int8"}, "Choose from fp32, fp16, bf16"),
        ({"format": "huggingface", "part": "tokenizer"}, "encoder includes"),
        ({"format": "huggingface", "opset": 20}, "--format onnx"),
        ({"format": "torch-export", "opset": 20}, "--format onnx"),
        ({"format": "safetensors", "part": "encoder"}, "--part"),
        ({"format": "safetensors", "data": "x"}, "--data"),
        ({"part": "head"}, "encoder"),
        ({"part": "tokenizer", "dtype": "int8"}, "the tokenizer stays fp32"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):  # before the run is opened, which is not there
        api.export(tmp_path / "gone", **{"format": "onnx", "out": tmp_path / "out", **options})


def test_a_missing_extra_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(EnvironmentFault, match=r"onnxscript\npip install 'bridle\[onnx\]'"):
        api.export(tmp_path / "gone", format="onnx", out=tmp_path / "out")


@pytest.mark.parametrize("part", ["tokenizer", "both"])
def test_a_run_without_codes(tmp_path: Path, part: str) -> None:
    run = saved(small("image", fitted=False), tmp_path / "run")
    with pytest.raises(UsageError, match="--part encoder"):
        api.export(run, format="onnx", out=tmp_path / "out", part=part)
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists(tmp_path: Path, exported: Callable[[str], Exported], monkeypatch: Any) -> None:
    one = exported("image")
    with pytest.raises(UsageError, match="--overwrite"):
        api.export(one.run, format="onnx", out=one.out)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="will not be replaced"):
        api.export(one.run, format="onnx", out=tmp_path, overwrite=True)
    out = tmp_path / "again"
    api.export(one.run, format="safetensors", out=out)
    monkeypatch.setattr(onnx, "write", lambda program, example, path, **_: path.touch())
    monkeypatch.setattr(onnx, "opened", lambda path: right(one.model, path.stem))
    assert api.export(one.run, format="onnx", out=out, overwrite=True)["files"] == OF_PIXELS


def right(model: Bridle, part: str) -> Callable[[PatchBatch], tuple[torch.Tensor, ...]]:
    """A program without a file."""
    program = program_of(model, part)

    def run(batch: PatchBatch) -> tuple[torch.Tensor, ...]:
        out = program(batch.x_BNP, batch.coords_BN3, batch.valid_BN)
        return out if isinstance(out, tuple) else (out,)

    return run


def test_a_tokenizer_alone_was_allowed_no_difference_of_features(tmp_path: Path, monkeypatch: Any) -> None:
    model = small("image")
    monkeypatch.setattr(onnx, "write", lambda program, example, path, **_: path.touch())
    monkeypatch.setattr(onnx, "opened", lambda path: right(model, path.stem))
    run = saved(model, tmp_path / "run")
    figures = api.export(run, format="onnx", part="tokenizer", out=tmp_path / "out", data=MEDIA / "image")["parity"]
    assert (figures["codes"], figures["features"], figures["tolerance"]) == (1.0, None, None)


@pytest.mark.parametrize("data", ["gone", "broken"])
def test_data_that_cannot_be_read(tmp_path: Path, data: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "photo.jpg").write_bytes(b"no picture")
    run = saved(small("image"), tmp_path / "run")
    with pytest.raises(DataError, match=data):
        api.export(run, format="onnx", out=tmp_path / "out", data=tmp_path / data)
    assert not (tmp_path / "out").exists()


def spoilt(model: Bridle, part: str) -> Callable[[PatchBatch], tuple[torch.Tensor, ...]]:
    """Off by more than the tolerance, or in one code."""
    program = right(model, part)

    def run(batch: PatchBatch) -> tuple[torch.Tensor, ...]:
        outputs = program(batch)
        if part == "encoder":
            outputs[0][0, 0, 0] += 1e-3
        else:
            outputs[0][0, 0, 0] = (outputs[0][0, 0, 0] + 1) % 8
        return outputs

    return run


@pytest.mark.parametrize(("part", "said"), [("encoder", "features by up to 0.001"), ("tokenizer", "% of the codes")])
def test_programs_that_differ_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, said: str
) -> None:
    model = small("image")
    run = saved(model, tmp_path / "run")
    monkeypatch.setattr(onnx, "write", lambda program, example, path, **_: path.touch())
    monkeypatch.setattr(onnx, "opened", lambda path: spoilt(model, path.stem))
    with pytest.raises(NumericalError, match=said) as caught:
        api.export(run, format="onnx", out=tmp_path / "out", part=part, data=MEDIA / "image")
    assert "Please report it" in caught.value.hint and "--dtype" not in caught.value.hint  # it was fp32
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(program: Any, example: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    run = saved(small("image"), tmp_path / "run")
    monkeypatch.setattr(onnx, "write", full)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        api.export(run, format="onnx", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_compared_on(tmp_path: Path) -> None:
    """The shards of the run, if they are there; else noise, and that is told. A run that was stopped is told, too."""
    told = list[str]()
    run = tmp_path / "run"
    saved(small("image"), run / "checkpoints" / "step-00000001")
    state: dict[str, Any] = {"status": "interrupted", "preset": "", "limits": dict.fromkeys(["steps", "epochs"])}
    state["limits"]["max_minutes"] = None
    for shards, origin in ((MEDIA / "image", str(MEDIA / "image")), (tmp_path / "gone", "noise")):
        (run / "state.json").write_text(json.dumps({**state, "shards": [str(shards)]}))
        with progress.listening(lambda kind, message: told.append(message)):
            subject = open_subject(run)
            assert "not finished (interrupted)" in told.pop()
            assert parity.material(subject, None).origin == origin
    assert len(told) == 1
    assert "--data" in told[0]
    exported = open_subject(saved(small("image"), tmp_path / "exported"))
    assert parity.material(exported, None).origin == "noise"


def test_a_tie_that_float32_cannot_decide_is_no_difference() -> None:
    model = small("image")
    codebook_QKC = model.cold_tokenizer.quantizer.codebook_QKC
    batch = model.patcher([view for view, _ in model.patcher.windows(clip_of("image"))] * 200)
    first = int(model.tokenize(batch)[0, 0, 0])
    codebook_QKC[0, (first + 1) % 8] = codebook_QKC[0, first]  # two codes in one place: no one can tell them apart
    codes_BNQ = model.tokenize(batch)
    tied = codes_BNQ.clone()
    tied[0, 0, 0] = first + (first + 1) % 8 - codes_BNQ[0, 0, 0]
    other = codes_BNQ.clone()
    place = int((codes_BNQ[0, :, 0] != codes_BNQ[0, 0, 0]).nonzero()[0])
    other[0, place, 2] = (other[0, place, 2] + 1) % 8

    def share(found: torch.Tensor) -> tuple[float, int]:
        with torch.inference_mode():
            return parity._codes(model, lambda _: [found], [batch])

    assert share(codes_BNQ) == (1.0, 0)
    assert share(tied) == (1.0, 1)
    assert share(other)[0] < 1
    everywhere = codes_BNQ.clone()
    everywhere[..., 0] = torch.where(codes_BNQ[..., 0] == codes_BNQ[0, 0, 0], tied[0, 0, 0], codes_BNQ[..., 0])
    assert share(everywhere)[0] < 1  # so many ties are no accident


def test_large_weights_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "_ONE_FILE", 1000)
    model, path = small("image"), tmp_path / "tokenizer.onnx"
    onnx.write(program_of(model, "tokenizer"), example_of(model), path, opset=None, dtype="fp32")
    assert (tmp_path / "tokenizer.onnx.data").exists()
    batch = model.patcher([view for view, _ in model.patcher.windows(clip_of("image"))])
    assert torch.equal(onnx.opened(path)(batch)[0], model.tokenize(batch))


def test_what_the_user_should_know_is_told_as_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    monkeypatch.setattr(onnx, "write", lambda program, example, path, **_: path.touch())
    model = small("image")
    monkeypatch.setattr(onnx, "opened", lambda path: right(model, path.stem))
    run = saved(model, tmp_path / "run")
    api.export(run, format="onnx", out=tmp_path / "out", on_event=lambda kind, **fields: events.append((kind, fields)))
    assert [(kind, SimpleNamespace(**fields).message[:16]) for kind, fields in events] == [
        ("warning", "checked on noise")
    ]
