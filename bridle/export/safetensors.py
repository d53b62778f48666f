"""A run -> a folder of plain files that loads back in three lines of Python.

    OUT/model.safetensors    weights
    OUT/model.json           configuration and corpus statistics, read by `bridle.load`
    OUT/config.yaml          the same configuration, for people and `bridle pretrain --config`
    OUT/preprocessing.json   how media become patches, for other programs
    OUT/README.md            how to load it

Written beside its place, loaded back, compared, and only then renamed: a failed export leaves nothing behind.

Shapes: B clips, N patches, P values a patch.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from bridle import config as configuration
from bridle.checkpoint import load_model, save_model, snapshot
from bridle.errors import EnvironmentFault, NumericalError, UsageError
from bridle.model import Bridle
from bridle.patches.cut import coordinates
from bridle.schema import PatchBatch

TOLERANCE = 1e-5  # features after reloading; on one machine they are equal to the bit
_MARK = "preprocessing.json"  # what tells an export from a checkpoint
_FILES = {"model.safetensors", "model.json", "config.yaml", "preprocessing.json", "README.md"}
_EXAMPLES = {"audio": "clip.wav", "image": "photo.jpg", "video": "clip.mp4"}


def export_safetensors(run: Path, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the newest checkpoint of `run` to the folder `out` and check that it loads back equal.

    Returns:
        `{format, out, files, parity: {features, codes}}`: the largest absolute difference of features, and whether
        all codes are equal (None for a model without codes).

    Raises:
        UsageError: `out` exists.
        DataError: `run` holds no complete checkpoint.
        NumericalError: the reloaded model differs.
        EnvironmentFault: the disk is full or cannot be written.
    """
    _check_output(out, overwrite)
    model = load_model(run).eval()
    partial = out.absolute().with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        save_model(snapshot(model), partial)
        _describe(model, partial, out)
        parity = compare(model, load_model(partial).eval())
        if parity["features"] > TOLERANCE or parity["codes"] is False:
            raise NumericalError(f"the exported model differs from {run}: {parity}", "nothing was written")
        _replace(partial, out)
    except OSError as error:
        raise EnvironmentFault(
            f"{out} cannot be written: {error.strerror or error}", "Free some space, or name another --out."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"format": "safetensors", "out": str(out), "files": sorted(p.name for p in out.iterdir()), "parity": parity}


@torch.inference_mode()
def compare(model: Bridle, other: Bridle) -> dict[str, Any]:
    """Features and codes of two models on the same patches: two full clips of noise, one of them half padding."""
    batch = _noise(model)
    difference = float((model.features(batch) - other.features(batch)).abs().max())
    if model.config != other.config or model.statistics != other.statistics:
        difference = float("inf")  # other preprocessing is another model
    codes = bool((model.tokenize(batch) == other.tokenize(batch)).all()) if model.ready and other.ready else None
    if model.ready != other.ready:
        codes = False
    return {"features": difference, "codes": codes}


def _noise(model: Bridle) -> PatchBatch:
    patcher = model.patcher
    coords_N3 = coordinates(patcher.grid)
    x_BNP = torch.randn(2, len(coords_N3), patcher.values, generator=torch.Generator().manual_seed(0))
    valid_BN = torch.ones(x_BNP.shape[:2], dtype=torch.bool)
    valid_BN[1] = coords_N3[:, 0] <= patcher.grid[0] // 2
    lengths = valid_BN.sum(1).tolist()
    return PatchBatch(x_BNP * valid_BN[..., None], coords_N3.expand(2, -1, -1), valid_BN, lengths, patcher.grid)


def _check_output(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UsageError(f"{out} exists", "choose another --out, or add --overwrite")
    found = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    if found and not (_MARK in found and found <= _FILES):
        raise UsageError(
            f"{out} is no export, or holds more than that: it will not be replaced", "choose another --out"
        )


def _describe(model: Bridle, folder: Path, out: Path) -> None:
    """The files for people and other programs."""
    patches = model.config.patches.model_dump(mode="json")
    preprocessing = {
        "patches": patches,
        "statistics": model.statistics,
        "patch": list(model.patcher.patch),
        "grid": list(model.patcher.grid),
    }
    (folder / "config.yaml").write_text(configuration.dump(model.config), encoding="utf-8")
    (folder / "preprocessing.json").write_text(json.dumps(preprocessing, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(model, out), encoding="utf-8")


def _readme(model: Bridle, out: Path) -> str:
    section = model.config.quantizer
    example = _EXAMPLES[model.modality]
    return f"""# {out.name}: an encoder for {model.modality}, pretrained with BRIDLE

Width {model.config.encoder.width}, depth {model.config.encoder.depth};
{section.levels} codebooks of {section.codes} codes;
{" x ".join(map(str, model.patcher.grid))} patches (time, rows, columns) in a full clip.

```python
import bridle

model = bridle.load("{out.name}")
vector, codes = model.embed("{example}"), model.tokenize("{example}")
```

`model.safetensors` holds the weights, `model.json` configuration and corpus statistics, `config.yaml` the same
configuration for `bridle pretrain --config`, `preprocessing.json` how media become patches.
Method: Nguyen et al., arXiv 2502.02118.
"""


def _replace(partial: Path, out: Path) -> None:
    """Put the finished folder in place; the one that was there goes last."""
    if not out.exists():
        partial.rename(out)
        return
    old = out.absolute().with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)
