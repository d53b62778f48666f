"""What the tests of exported programs share: small runs, and processes in which some packages cannot be imported."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from PIL import Image
from standins import small

from bridle.checkpoint import Head, save_classifier, save_model, snapshot
from bridle.export.parity import noise
from bridle.media import decode, probe
from bridle.model import Bridle, Classifier
from bridle.schema import Clip

MEDIA = Path(__file__).parent / "media"
NAMES = {"audio": "clip.wav", "image": "photo.jpg", "video": "clip.mp4"}  # in the read-me of an export
# Runs the code of each read-me in its folder, and keeps what it found.
_RUN = """
import os
import sys

for folder in sys.argv[1:]:
    os.chdir(folder)
    for name in ("preprocess", "pixels"):  # each folder has its own
        sys.modules.pop(name, None)
    found = {}
    exec(sys.stdin.readline().encode().decode("unicode_escape"), found)
    import numpy
    names = ("features", "class_token", "mean", "codes", "logits", "said")
    numpy.savez("found.npz", **{name: numpy.asarray(found[name]) for name in names if name in found})
"""
_BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is not available here")
sys.meta_path.insert(0, Blocker())
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """A small model, where it lies, and what became of it."""

    model: Bridle
    run: Path
    out: Path
    result: dict[str, Any]


def learned(modality: str) -> Bridle:
    """A small model whose learned tokenizer is in force."""
    model = small(modality)
    with torch.no_grad():
        model.tokenizer.quantizer.start(model.tokenizer._embed(noise(model)))
    model.learned.fill_(True)
    return model


def saved(model: Bridle, folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_model(snapshot(model), folder)
    return folder


def tuned(model: Bridle, folder: Path, classes: int = 3, multi: bool = False) -> tuple[Path, Head]:
    """What fine-tuning keeps, with a head that nothing has taught: its scores differ widely all the same."""
    torch.manual_seed(1)
    classifier = Classifier(deepcopy(model.encoder), classes, "class" if multi else "mean")
    with torch.no_grad():
        for weight in classifier.encoder.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        classifier.head.weight.normal_()
        classifier.norm.bias.normal_()
    head = Head(classifier.eval().requires_grad_(False), [f"kind {at}" for at in range(classes)], multi)
    told = {"checkpoint": "gone/checkpoints/step-00000001", "task": "folder", "data": "media", "recipe": {"lr": 1e-3}}
    save_classifier(model, head, folder, {"finetuned": told})
    return folder, head


def clip_of(modality: str, file: Path | None = None) -> Clip:
    """A real one: the first of the sample, or that file."""
    file = file or sorted(path for path in (MEDIA / modality).rglob("*") if path.is_file())[0]
    return decode(file, probe(file, file.name), source=file.name, rate_hz=16000)


def as_array(clip: Clip) -> np.ndarray[Any, Any]:
    """As the exported preprocessing takes it."""
    array = clip.data.numpy()
    return array if array.ndim == 1 else np.moveaxis(array, -3, -1)


def put_clip(modality: str, folder: Path) -> Clip:
    """A real clip under the name that the read-me opens; sound at 16 kHz."""
    target = folder / NAMES[modality]
    if modality == "audio":
        soundfile.write(target, as_array(clip_of(modality)), 16000)
    else:
        source = sorted(path for path in (MEDIA / modality).rglob("*") if path.is_file())[0]
        target.write_bytes(source.read_bytes())
    return clip_of(modality, target)


def _photo() -> Image.Image:
    with Image.open(sorted((MEDIA / "image").rglob("*.jpg"))[0]) as file:
        return file.convert("RGB").resize((60, 44))


def _see_through(mode: str) -> Image.Image:
    """From nothing at the left to all at the right."""
    picture = _photo().convert(mode)
    picture.putalpha(Image.linear_gradient("L").rotate(90).resize(picture.size))
    return picture


def _grey(dtype: type, scale: float) -> Image.Image:
    return Image.fromarray((np.asarray(_photo().convert("L"), np.float64) * scale).astype(dtype))


# What `Image.open(...).convert("RGB")` and plain decoding show otherwise than it is meant: how to write each.
PICTURES: dict[str, Callable[[Path], None]] = {
    "rgba.png": lambda file: _see_through("RGB").save(file),
    "la.png": lambda file: _see_through("L").save(file),
    "palette.png": lambda file: _photo().quantize(4).save(file, transparency=0),
    "16 bits.png": lambda file: _grey(np.uint16, 257).save(file),
    "float.tif": lambda file: _grey(np.float32, 1 / 255).save(file),
}


def _turned(file: Path) -> None:
    """By the matrix in the header of its track, as telephones do."""
    content = bytearray(sorted((MEDIA / "video").rglob("*.mp4"))[0].read_bytes())
    start = content.index(b"tkhd") + 44
    assert content[start - 40] == 0  # the version with short times
    content[start : start + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    file.write_bytes(content)


def _uneven(file: Path) -> None:
    """Every tenth frame stays for four times as long."""
    with av.open(sorted((MEDIA / "video").rglob("*.mp4"))[0]) as source, av.open(file, "w") as target:
        stream = target.add_stream("mpeg4", rate=25)
        shape = source.streams.video[0]
        stream.width, stream.height, stream.pix_fmt = shape.width, shape.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = number + 3 * (-(-number // 10)), Fraction(1, 25)
            target.mux(stream.encode(frame.reformat(format="yuv420p")))
        target.mux(stream.encode())


VIDEOS: dict[str, Callable[[Path], None]] = {"turned.mp4": _turned, "uneven.mp4": _uneven}


def code_in(text: Path) -> str:
    """The only block of Python in a text."""
    (code,) = codes_in(text)
    return code


def codes_in(text: Path) -> list[str]:
    """Every block of Python in a text."""
    return re.findall(r"```python\n(.*?)```", text.read_text("utf-8"), flags=re.DOTALL)


def run_readme(folder: Path, blocked: set[str]) -> dict[str, np.ndarray[Any, Any]]:
    """What the code in the read-me finds, in a process of its own without some packages."""
    return run_readmes([folder], blocked)[0]


def run_readmes(folders: list[Path], blocked: set[str]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The same for several, one after the other in one process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _BLOCK.format(blocked=blocked) + _RUN, *map(str, folders)],
        cwd=folders[0],
        env={**environment, "HF_HOME": str(folders[0].parent / "huggingface")},
        input="\n".join(code_in(folder / "README.md").encode("unicode_escape").decode() for folder in folders),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = []
    for folder in folders:
        with np.load(folder / "found.npz") as found:
            results.append(dict(found))
    return results


def expected(model: Bridle, clip: Clip, head: Head | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """What the model itself finds in it."""
    batch = model.patcher([view for view, _ in model.patcher.windows(clip)])
    features_BND, class_B1D = model.features_and_class(batch)
    mean_BD = features_BND.sum(1) / batch.valid_BN.sum(1, keepdim=True)
    tensors = {"features": features_BND, "class_token": class_B1D[:, 0], "mean": mean_BD}
    if head:
        tensors["logits"] = head.classifier(batch)
    return {name: value.numpy() for name, value in {**tensors, "codes": model.tokenize(batch)}.items()}


def preprocessing(model: Bridle, folder: Path) -> str:
    """A folder with the settings that the exported preprocessing reads."""
    settings = {
        "patches": model.config.patches.model_dump(mode="json"),
        "statistics": model.statistics,
        "patch": model.patcher.patch,
        "grid": model.patcher.grid,
    }
    (folder / "preprocessing.json").write_text(json.dumps(settings))
    return str(folder)
