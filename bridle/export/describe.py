"""What goes into every export for people and other programs: recipe, preprocessing, a read-me with code that runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from bridle import config as configuration
from bridle.export import preprocess_numpy
from bridle.export.folder import MARK
from bridle.model import Bridle

# How each kind is opened without this library: the import, the line, what it must give, and a file's name.
_MEDIA = {
    "audio": (
        "import soundfile",
        'media, rate_hz = soundfile.read("clip.wav", dtype="float32")  # mono, 16000 Hz',
        "clip.wav",
    ),
    "image": (
        "import numpy\nfrom PIL import Image, ImageOps",
        'media = numpy.asarray(ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB"))  # any size',
        "photo.jpg",
    ),
    "video": (
        "import av\nimport numpy",
        'media = numpy.stack([frame.to_ndarray(format="rgb24") for frame in av.open("clip.mp4").decode(video=0)])',
        "clip.mp4",
    ),
}
_SIZES = """Width {width}, depth {depth};
{levels} codebooks of {codes} codes;
{grid} patches (time, rows, columns) in a full clip."""
_OUTPUTS = {
    "encoder": """`features` is float32 (windows, patches, width), zero at padding; `class_token` and `mean`, over the
valid patches, are (windows, width).""",
    "tokenizer": """`codes` is int64 (windows, patches, levels), -1 at padding; the first levels alone are a coarser
code.""",
}
_METHOD = "Method: Nguyen et al., arXiv 2502.02118."


def describe(model: Bridle, folder: Path, readme: str) -> None:
    """Writes `config.yaml`, `preprocessing.json` and `README.md`."""
    preprocessing = {
        "patches": model.config.patches.model_dump(mode="json"),
        "statistics": model.statistics,
        "patch": list(model.patcher.patch),
        "grid": list(model.patcher.grid),
    }
    (folder / "config.yaml").write_text(configuration.dump(model.config), encoding="utf-8")
    (folder / MARK).write_text(json.dumps(preprocessing, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(readme, encoding="utf-8")


def add_preprocessing(folder: Path) -> None:
    """`preprocess.py`, which needs NumPy alone and reads `preprocessing.json`."""
    shutil.copyfile(preprocess_numpy.__file__, folder / "preprocess.py")


def library_readme(model: Bridle, name: str) -> str:
    """For who has BRIDLE."""
    example = _MEDIA[model.modality][2]
    return f"""# {name}: an encoder for {model.modality}, pretrained with BRIDLE

{_sizes(model)}

```python
import bridle

model = bridle.load("{name}")
vector, codes = model.embed("{example}"), model.tokenize("{example}")
```

`model.safetensors` holds the weights, `model.json` configuration and corpus statistics, `config.yaml` the same
configuration for `bridle pretrain --config`, `preprocessing.json` how media become patches.
{_METHOD}
"""


def program_readme(model: Bridle, name: str, parts: Sequence[str], code: dict[str, str], imports: Sequence[str]) -> str:
    """For who has not.

    Args:
        parts: what was exported.
        code: of each part the line that runs it.
        imports: what these lines need.
    """
    opener, line, _ = _MEDIA[model.modality]
    needed = sorted([*imports, *opener.splitlines(), "import preprocess"], key=lambda one: one.lower())
    lines = "\n".join([*needed, "", line, "inputs = preprocess.inputs(media)", *(code[part] for part in parts)])
    made = "\n".join(_OUTPUTS[part] for part in parts)
    return f"""# {name}: {" and ".join(parts)} for {model.modality}, pretrained with BRIDLE

{_sizes(model)}

Run in this folder:

```python
{lines}
```

`inputs` is `patches` float32 (windows, patches, values), `coords` int64 (windows, patches, 3: time, row, column) and
`valid` bool (windows, patches); a long clip has several windows, and any number of windows and of patches will do.
{made}

`preprocess.py` needs NumPy alone and reads `preprocessing.json`; windows of several clips share a batch by
`preprocess.batch([*preprocess.windows(a), *preprocess.windows(b)])`. `config.yaml` is the recipe.
{_METHOD}
"""


def _sizes(model: Bridle) -> str:
    section, encoder = model.config.quantizer, model.config.encoder
    grid = " x ".join(map(str, model.patcher.grid))
    return _SIZES.format(
        width=encoder.width, depth=encoder.depth, levels=section.levels, codes=section.codes, grid=grid
    )
