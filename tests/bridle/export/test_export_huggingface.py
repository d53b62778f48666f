"""A folder for `transformers`: it loads where this library is not, and is a model like any other there."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from exports import (
    MEDIA,
    PICTURES,
    VIDEOS,
    as_array,
    clip_of,
    code_in,
    codes_in,
    expected,
    learned,
    put_clip,
    run_readmes,
    saved,
    tuned,
)  # fmt: skip
from standins import small

from bridle import api
from bridle.checkpoint import Head, add_result, read_about
from bridle.checkpoint.files import write_json
from bridle.errors import DataError, EnvironmentFault, NumericalError, UsageError
from bridle.export import huggingface
from bridle.infer import Pretrained
from bridle.media.audio import resample
from bridle.model import Bridle
from bridle.schema import Clip

pytestmark = [
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra [huggingface]"),
    pytest.mark.usefixtures("one_thread"),
]
MODELS: dict[str, Callable[[], Bridle]] = {
    "audio": lambda: learned("audio"),
    "image": lambda: small("image"),
    "video": lambda: small("video"),
}
AUTO = {"audio": "AutoFeatureExtractor", "image": "AutoImageProcessor", "video": "AutoVideoProcessor"}


@dataclass(frozen=True, slots=True)
class Tuned:
    """A fine-tuned model, what it became, and a real clip of its kind."""

    model: Bridle
    head: Head
    out: Path
    result: dict[str, Any]
    clip: Clip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tuned]:
    """A fine-tuned model of each modality, exported once; that of images may see several classes in one."""
    root, done = tmp_path_factory.mktemp("exported"), {}
    for modality, make in MODELS.items():
        model = make()
        folder, head = tuned(model, root / f"{modality}-tuned", multi=modality == "image")
        out = root / modality
        result = api.export(folder, format="huggingface", out=out, data=sixteen(modality, root / f"{modality}-data"))
        clip = put_clip(modality, out)
        model.encoder.load_state_dict(head.classifier.encoder.state_dict())
        done[modality] = Tuned(model, head, out, result, clip)
    return done


def sixteen(modality: str, folder: Path) -> Path:
    """Real clips, and those that only BRIDLE's own rules open as they are meant."""
    folder.mkdir()
    odd = {"image": PICTURES, "video": VIDEOS}.get(modality, {})
    for name, write in odd.items():
        write(folder / name)
    for file in sorted(path for path in (MEDIA / modality).rglob("*") if path.is_file())[: 16 - len(odd)]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library, with no network and a place of its own for the code that comes with a model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        found = importlib.import_module("transformers")
        found.logging.set_verbosity_error()
        yield found


def opened(transformers: Any, one: Tuned, **options: Any) -> tuple[Any, Any]:
    """The classifier and the processor, by their Auto classes."""
    auto = f"AutoModelFor{one.model.modality.capitalize()}Classification"
    model = getattr(transformers, auto).from_pretrained(one.out, trust_remote_code=True, **options)
    return model, getattr(transformers, AUTO[one.model.modality]).from_pretrained(one.out, trust_remote_code=True)


def inputs_of(one: Tuned, processor: Any, count: int) -> Any:
    """What the processor makes of the first real clips."""
    files = sorted(path for path in (MEDIA / one.model.modality).rglob("*") if path.is_file())
    step = max(1, len(files) // count)
    media = [as_array(clip_of(one.model.modality, file)) for file in files[::step][:count]]
    return processor(media, return_tensors="pt")


@pytest.mark.parametrize("modality", list(MODELS))
def test_features_codes_and_logits_are_those_of_the_model(exported: dict[str, Tuned], modality: str) -> None:
    one = exported[modality]
    assert one.result.keys() == {"format", "out", "files", "parity"}
    figures = one.result["parity"]
    assert max(figures["features"], figures["logits"]) < 2e-5
    assert (figures["codes"], figures["ties"], figures["clips"]) == (1.0, 0, 16)
    assert figures["patches"] <= (1e-3 if modality == "audio" else 0.0)
    assert json.dumps(one.result)
    names = {"README.md", "config.json", "model.safetensors", "modeling_bridle.py", "classes.json", "config.yaml"}
    assert names < set(one.result["files"])
    assert [path.name for path in one.out.parent.iterdir() if path.name.startswith(".")] == []


def test_the_code_in_the_model_cards_runs_without_this_library(exported: dict[str, Tuned]) -> None:
    results = run_readmes([one.out for one in exported.values()], {"bridle", "bridle_cli"})
    for one, found in zip(exported.values(), results, strict=True):
        wanted = expected(one.model, one.clip, one.head)
        assert np.array_equal(found["codes"], wanted["codes"][:1])
        for name in ("features", "class_token", "mean"):
            assert np.abs(found[name] - wanted[name][:1]).max() < 2e-4  # preprocessing is another's, too
        assert np.abs(found["logits"] - wanted["logits"][:1]).max() < 2e-3
        assert found["said"].tolist() == [one.head.classes[int(wanted["logits"][0].argmax())]]


def test_a_processor_that_opens_files_otherwise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that loads the export: this one lays transparency over nothing."""
    (data := tmp_path / "data").mkdir()
    PICTURES["rgba.png"](data / "rgba.png")
    written = huggingface.add_preprocessing

    def spoilt(modality: str, folder: Path) -> None:
        written(modality, folder)
        code = (folder / "pixels.py").read_text()
        (folder / "pixels.py").write_text(code.replace('{"RGBA", "LA"', '{"LA"'))

    monkeypatch.setattr(huggingface, "add_preprocessing", spoilt)
    run = saved(small("image"), tmp_path / "run")
    with pytest.raises(NumericalError, match=r"preprocessing differs .* patches by up to"):
        api.export(run, format="huggingface", part="encoder", out=tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists()


def test_the_documentation_shows_the_same_code(exported: dict[str, Tuned]) -> None:
    documentation = Path(__file__).parents[3] / "docs" / "export.md"
    assert codes_in(documentation)[1] == code_in(exported["audio"].out / "README.md")


def test_model_cards_say_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, run = tmp_path / "digits", tmp_path / "run"
    api.shard(MEDIA / "audio" / "7", modality="audio", out=shards, workers=1)
    for step in (50, 100):
        saved(small("audio"), run / "checkpoints" / f"step-{step:08}")
    limits = {"steps": 1234567, "epochs": None, "max_minutes": None}
    state = {"status": "complete", "preset": "audio-tiny", "shards": [str(shards)], "limits": limits}
    state["result"] = {"steps": 100, "clips": 3200, "seconds": 41.5}
    (run / "state.json").write_text(json.dumps(state))
    of = {"task": "folder", "data": "/data/digits", "protocol": "knn", "pool": "mean", "metric": "accuracy"}
    of |= {"folds": 6, "group_by": "_([a-z]+)_"}
    for checkpoint, value in (("random", 0.349), ("runs/digits/checkpoints/step-00000100", 0.65)):
        ends = [value - 0.02, value + 0.02]
        add_result(run, {**of, "checkpoint": checkpoint, "value": value, "ci95": ends, "chance": 0.1, "n_test": 300})
    monkeypatch.setattr(huggingface, "_loaded_elsewhere", same)
    api.export(run, format="huggingface", out=tmp_path / "voices", part="encoder")
    text = (tmp_path / "voices" / "README.md").read_text("utf-8")
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["library_name"] == "transformers"
    assert "pipeline_tag" not in front  # none of transformers takes a bare encoder of sound
    assert "license" not in front  # the user's to choose
    assert "| digits | audio: 30 clips, 0.4" in body
    assert "| length | 100 steps, 3200 clips seen, 41.5 s |" in body
    assert "65.0 % | 63.0 % to 67.0 % | 10.0 % | 300 |\n" in body
    assert "--steps 1234567` trains the same again" in body
    assert "34.9 % | 32.9 % to 36.9 % | 10.0 % | 300 | untrained |" in body
    assert "knn, mean, 6 folds by `_([a-z]+)_` |" in body
    assert "model.tokenize" not in body
    assert str(tmp_path) not in text  # no paths of this machine

    early = run / "checkpoints" / "step-00000050"
    api.export(early, format="huggingface", out=tmp_path / "a (b)", part="encoder")
    text = (tmp_path / "a (b)" / "README.md").read_text("utf-8")
    assert "| of it, this model | the first 50 steps |" in text
    assert "This model was not evaluated" in text and "| 300 | step-00000100 |" in text
    assert "YOUR_NAME/a-b " in text

    # What was fine-tuned from a checkpoint: of the run as long as that is there, else what its name says.
    folder, _ = tuned(small("audio"), tmp_path / "tuned")
    about = read_about(folder)
    for checkpoint, length, again in (
        (early, "| of it, this model | the first 50 steps |", "--steps 1234567` pretrains the encoder again"),
        (tmp_path / "gone" / "checkpoints" / "step-00000070", "| length | 70 steps |", None),
    ):
        told = {**about["finetuned"], "checkpoint": str(checkpoint)}
        write_json(folder / "model.json", {**about, "finetuned": told})
        api.export(folder, format="huggingface", out=tmp_path / "head", part="encoder", overwrite=True)
        text = (tmp_path / "head" / "README.md").read_text("utf-8")
        assert length in text and (again in text if again else "bridle pretrain" not in text)


def same(folder: Path, subject: Any, compared: Any, parts: Any) -> tuple[Any, None]:
    """Stands in for the process that loads the folder: finds what the model finds."""
    from bridle.export.parity import _own

    programs = {"encoder": lambda batch: _own(subject, batch), "tokenizer": lambda b: [subject.model.tokenize(b)]}
    return {part: programs[part] for part in parts}, None


@pytest.mark.parametrize("modality", list(MODELS))
def test_pipelines(exported: dict[str, Tuned], transformers: Any, modality: str) -> None:
    one = exported[modality]
    model, processor = opened(transformers, one)
    task = f"{modality}-classification"
    names = {"image": "image_processor", "video": "video_processor"}
    options = {names.get(modality, "feature_extractor"): processor}
    pipe = transformers.pipeline(task, model=model, **options)
    found = pipe(as_array(one.clip) if modality == "audio" else str(next(one.out.glob("*.[jm]p*"))), top_k=3)
    logits_L = torch.from_numpy(expected(one.model, one.clip, one.head)["logits"][0])
    wanted_L = logits_L.sigmoid() if modality == "image" else logits_L.softmax(-1)
    assert {said["label"] for said in found} == set(one.head.classes)
    for said in found:
        assert said["score"] == pytest.approx(float(wanted_L[one.head.classes.index(said["label"])]), abs=1e-3)


def test_the_pipeline_that_the_card_of_an_image_encoder_names_works(
    transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "_loaded_elsewhere", same)
    run, out = saved(model := small("image"), tmp_path / "run"), tmp_path / "out"
    api.export(run, format="huggingface", out=out, data=MEDIA / "image")
    task = yaml.safe_load((out / "README.md").read_text("utf-8").split("---\n")[1])["pipeline_tag"]
    pipe = transformers.pipeline(task, model=str(out), trust_remote_code=True)
    photo = next((MEDIA / "image").rglob("*.jpg"))
    wanted = Pretrained(model).features(photo).flatten(0, 2)
    assert torch.allclose(torch.tensor(pipe(str(photo)))[0], wanted, atol=2e-4)


def test_it_can_be_fine_tuned(exported: dict[str, Tuned], transformers: Any) -> None:
    """From the bare encoder with a new head, on real clips, with and without gradient checkpointing."""
    one = exported["video"]
    torch.manual_seed(0)
    model, processor = opened(transformers, one, num_labels=2, ignore_mismatched_sizes=True)
    assert model.head.weight.shape == (2, 16)
    assert 0 < float(model.head.weight.detach().std()) < 0.05  # begins with nearly equal scores
    batch = inputs_of(one, processor, 8)
    batch["labels"] = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    model.train()
    loss = model(**batch).loss
    loss.backward()
    gradient = model.bridle.encoder.embed.weight.grad.clone()
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    assert torch.allclose(model.bridle.encoder.embed.weight.grad, gradient, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.bridle.tokenizer.parameters())
    before = model.tokenize(**batch)
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=3e-3)
    for _ in range(15):
        optimiser.zero_grad()
        model(**batch).loss.backward()
        optimiser.step()
    assert float(model(**batch).loss.detach()) < 0.5 * float(loss.detach())
    assert torch.equal(model.tokenize(**batch), before)


def test_what_is_saved_loads_again(exported: dict[str, Tuned], transformers: Any, tmp_path: Path) -> None:
    one = exported["audio"]
    model, processor = opened(transformers, one)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    model_again, processor_again = opened(transformers, replace(one, out=tmp_path / "again"))
    batch, batch_again = inputs_of(one, processor, 5), inputs_of(one, processor_again, 5)
    with torch.inference_mode():
        found, found_again = model(**batch), model_again(**batch_again, output_hidden_states=True)
    assert torch.equal(found.logits, found_again.logits)
    assert len(found_again.hidden_states) == 2  # into the only block, and out of it
    base = transformers.AutoModel.from_pretrained(one.out, trust_remote_code=True)
    assert torch.equal(base.tokenize(**batch), model.tokenize(**batch))
    full = processor(as_array(one.clip)[:9000], padding="max_length")
    assert full["patches"].shape[1] == 8 > int(full["valid"].sum())
    assert len(processor(np.tile(as_array(one.clip), 3), windows="all")["patches"]) > 1
    halved_S = as_array(one.clip)[::2]
    resampled_S = resample(torch.from_numpy(halved_S.copy()), 8000, 16000).numpy()
    found, expected = processor(halved_S, sampling_rate=8000), processor(resampled_S, sampling_rate=16000)
    assert np.abs(found["patches"] - expected["patches"]).max() < 1e-2
    integers = np.rint(as_array(one.clip) * 32768).clip(-32768, 32767).astype(np.int16)
    scaled = integers.astype(np.float32) / 32768
    assert np.array_equal(processor(integers)["patches"], processor(scaled)["patches"])
    for wrong in (integers.astype(np.int64), np.full(9000, np.nan)):
        with pytest.raises(ValueError, match=r"float|finite"):
            processor(wrong)


def test_half_precision_keeps_the_codes(exported: dict[str, Tuned], transformers: Any, tmp_path: Path) -> None:
    one = exported["audio"]
    model, processor = opened(transformers, one)
    batch = inputs_of(one, processor, 12)
    codes, logits = model.tokenize(**batch), model(**batch).logits
    halves = [opened(transformers, one, dtype=torch.bfloat16)[0], opened(transformers, one)[0].half()]
    for half in halves:
        assert half.head.weight.dtype == half.dtype != torch.float32
        assert {value.dtype for value in half.bridle.tokenizer.state_dict().values()} == {torch.float32}
        assert torch.equal(half.tokenize(**batch), codes)
        assert 1e-4 < (half(**batch).logits - logits).abs().max() < 0.3


@pytest.mark.parametrize("multi", [False, True])
def test_losses(exported: dict[str, Tuned], transformers: Any, multi: bool) -> None:
    one = exported["image" if multi else "video"]
    model, processor = opened(transformers, one)
    batch = inputs_of(one, processor, 4)
    labels = torch.eye(3)[[0, 1, 2, 0]] if multi else torch.tensor([0, 1, 2, 0])
    found = model(**batch, labels=labels.long())
    losses = torch.nn.functional.binary_cross_entropy_with_logits, torch.nn.functional.cross_entropy
    assert torch.equal(found.loss, losses[0 if multi else 1](found.logits, labels))
    plain = model(patches=batch["patches"], return_dict=False)  # without coordinates: a full clip
    assert torch.allclose(plain[0], found.logits, atol=1e-6)


def test_smaller_weights_are_stored_and_loaded_so(tmp_path: Path, transformers: Any) -> None:
    model = learned("image")
    folder, head = tuned(model, tmp_path / "tuned")
    result = api.export(folder, format="huggingface", dtype="bf16", out=tmp_path / "out", data=MEDIA / "image")
    assert 1e-4 < result["parity"]["features"] < 0.3
    assert (result["parity"]["codes"], result["parity"]["tolerance"]) == (1.0, {"cosine": 0.99})
    loaded, _ = opened(transformers, Tuned(model, head, tmp_path / "out", result, clip_of("image")))
    assert loaded.dtype == torch.bfloat16
    again = api.export(folder, format="safetensors", out=tmp_path / "out", overwrite=True)
    assert "head.safetensors" in again["files"]


def test_what_goes_wrong_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, made = saved(small("image"), tmp_path / "run"), huggingface.PROCESSORS

    def export(**options: Any) -> Any:
        return api.export(run, **{"format": "huggingface", "out": tmp_path / "out", "data": MEDIA / "image", **options})

    empty = saved(small("image", fitted=False), tmp_path / "empty")
    with pytest.raises(UsageError, match="--part encoder"):
        api.export(empty, format="huggingface", out=tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        api.export(tmp_path / "gone", format="huggingface", out=tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "find_spec", lambda name: None)
        with pytest.raises(EnvironmentFault, match=r"transformers\npip install 'bridle\[huggingface\]'"):
            api.export(tmp_path / "gone", format="huggingface", out=tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "PROCESSORS", {"image": (made["image"][0], "NoSuchClass", *made["image"][2:])})
        with pytest.raises(NumericalError, match="NoSuchClass"):
            export()
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "_loaded_elsewhere", lambda *given: (same(*given)[0], 0.5))
        with pytest.raises(NumericalError, match="patches by up to"):
            export()
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "_loaded_elsewhere", off)
        with pytest.raises(NumericalError, match="features by up to"):
            export()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", killed)
        with pytest.raises(NumericalError, match="ended with -9"):
            export()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "run"]


def off(*given: Any) -> Any:
    programs, patches = same(*given)
    encoder = programs["encoder"]
    return {**programs, "encoder": lambda batch: [tensor + 0.01 for tensor in encoder(batch)]}, patches


def killed(command: list[str], **options: Any) -> Any:
    return subprocess.CompletedProcess(command, -9, "", "")
