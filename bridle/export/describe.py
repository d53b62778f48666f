"""What goes into every export for people and other programs: recipe, preprocessing, a read-me with code that runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridle import config as configuration
from bridle.checkpoint import Head
from bridle.export.folder import MARK
from bridle.export.standalone import preprocess
from bridle.media import pixels
from bridle.model import Bridle


@dataclass(frozen=True, slots=True)
class Opened:
    """How one kind of media is opened without this library.

    Attributes:
        file: an example's name.
        imports, line: what gives `media`.
        prepared, processed: what `preprocess.inputs` and a processor of `transformers` take; the latter opens pixels
            itself.
        about: what the reader should know of it.
    """

    file: str
    imports: str
    line: str
    prepared: str
    processed: str
    about: str


MEDIA = {
    "audio": Opened(
        "clip.wav",
        "import soundfile",
        'media, rate_hz = soundfile.read("clip.wav", dtype="float32")  # mono',
        "media, rate_hz=rate_hz",
        "media, sampling_rate=rate_hz",
        "`preprocess.py` resamples audio as BRIDLE does; {channels} of other than mono files.",
    ),
    "image": Opened(
        "photo.jpg",
        "import pixels",
        'media = pixels.picture("photo.jpg", preprocess.pixel_rules())  # of any size',
        "media",
        '"photo.jpg"',
        "`pixels.py` opens images (with Pillow) as BRIDLE does: upright, over white, in 8 bits of sRGB by the rules "
        "of the images that the model was trained on.",
    ),
    "video": Opened(
        "clip.mp4",
        "import pixels",
        'media = pixels.video("clip.mp4")',
        "media",
        '"clip.mp4"',
        "`pixels.py` opens videos (with PyAV) as BRIDLE does: as a player shows them, frames on an even clock.",
    ),
}
PIPELINES = {"image": "image-feature-extraction"}  # of transformers that take a bare encoder; of audio it wants text
_SIZES = """Width {width}, depth {depth};
{levels} codebooks of {codes} codes;
{grid} patches (time, rows, columns) in a full clip."""
_OUTPUTS = {
    "encoder": """`features` is float32 (windows, patches, width), zero at padding; `class_token` and `mean`, over the
valid patches, are (windows, width).""",
    "tokenizer": """`codes` is int64 (windows, patches, levels), -1 at padding; the first levels alone are a coarser
code.""",
}
_LOGITS = """`logits` (windows, classes) are the scores of the classes in `classes.json`, in its order: {names}.
{how}"""
_HOW = {
    False: "Their softmax, averaged over the windows of a clip, is BRIDLE's prediction.",
    True: "A clip may have several classes, or none: the sigmoid of each, averaged over the windows of a clip.",
}
_NAMED = 12  # classes
METHOD = "Method: Nguyen et al., arXiv 2502.02118."


def about_media(model: Bridle) -> str:
    """What the reader of an export should know of its media."""
    channel = model.patcher.channel
    channels = f"take channel {channel}, counted from 1," if channel else "average the channels"
    return MEDIA[model.modality].about.format(channels=channels)


def describe(model: Bridle, folder: Path, readme: str) -> None:
    """Writes `config.yaml`, `preprocessing.json` and `README.md`."""
    (folder / "config.yaml").write_text(configuration.dump(model.config), encoding="utf-8")
    add_json(preprocessing(model), folder / MARK)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def preprocessing(model: Bridle) -> dict[str, Any]:
    """What `preprocess.py` works by."""
    return {
        "patches": model.config.patches.model_dump(mode="json"),
        "statistics": model.statistics,
        "patch": list(model.patcher.patch),
        "grid": list(model.patcher.grid),
    }


def add_json(content: Any, path: Path) -> None:
    """Writes it for people, too."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def add_classes(head: Head, folder: Path) -> None:
    """`classes.json`: names in the order of the logits."""
    add_json({"classes": head.classes, "multi_label": head.multi_label}, folder / "classes.json")


def class_names(head: Head) -> str:
    """For a sentence; the first of them, if they are many."""
    more = len(head.classes) - _NAMED
    return ", ".join(titled(name) for name in head.classes[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def add_preprocessing(modality: str, folder: Path) -> None:
    """`preprocess.py`, which needs NumPy alone and reads `preprocessing.json`; `pixels.py`, where that opens files."""
    for module in (preprocess, pixels) if modality != "audio" else (preprocess,):
        path = Path(str(module.__file__))
        shutil.copyfile(path, folder / path.name)


def titled(name: str) -> str:
    """A folder's name on one line."""
    return " ".join(name.split())


def library_readme(model: Bridle, head: Head | None, name: str, unfinished: str) -> str:
    """For who has BRIDLE; `unfinished`: see `Subject`."""
    example = MEDIA[model.modality].file
    tuned = (
        f"\nFine-tuned, with `head.safetensors` on top, with the classes {class_names(head)}:\n"
        "`bridle eval --protocol head --checkpoint . --data DATA` tests it.\n"
        if head
        else ""
    )
    return f"""# {titled(name)}: an encoder for {model.modality}, pretrained with BRIDLE

{_sizes(model, unfinished)}

In this folder:

```python
import bridle

model = bridle.load(".")
vector, codes = model.embed("{example}"), model.tokenize("{example}")
```

`model.safetensors` holds the weights, `model.json` configuration and corpus statistics, `config.yaml` the same
configuration for `bridle pretrain --config`, `preprocessing.json` how media become patches.
{tuned}{METHOD}
"""


def program_readme(
    model: Bridle, head: Head | None, name: str, unfinished: str, code: dict[str, str], imports: Sequence[str]
) -> str:
    """For who has not.

    Args:
        code: of each part that was exported the line that runs it.
        imports: what these lines need.
    """
    media = MEDIA[model.modality]
    needed = sorted([*imports, media.imports, "import preprocess"])
    lines = "\n".join([*needed, "", media.line, f"inputs = preprocess.inputs({media.prepared})", *code.values()])
    made = "\n".join(_OUTPUTS[part] for part in code)
    if head and "encoder" in code:
        made += "\n\n" + _LOGITS.format(names=class_names(head), how=_HOW[head.multi_label])
    return f"""# {titled(name)}: {" and ".join(code)} for {model.modality}, pretrained with BRIDLE

{_sizes(model, unfinished)}

Run in this folder:

```python
{lines}
```

`inputs` is `patches` float32 (windows, patches, values), `coords` int64 (windows, patches, 3: time, row, column) and
`valid` bool (windows, patches); a long clip has several windows. Any number of windows and patches works.
{made}

`preprocess.py` needs NumPy alone and reads `preprocessing.json`; windows of several clips share a batch by
`preprocess.batch([*preprocess.windows(a), *preprocess.windows(b)])`.
{about_media(model)}
`config.yaml` is the recipe.
{METHOD}
"""


def _sizes(model: Bridle, unfinished: str) -> str:
    section, encoder = model.config.quantizer, model.config.encoder
    grid = " x ".join(map(str, model.patcher.grid))
    text = f"The run that made it is {unfinished}.\n\n" if unfinished else ""
    return text + _SIZES.format(
        width=encoder.width, depth=encoder.depth, levels=section.levels, codes=section.codes, grid=grid
    )
