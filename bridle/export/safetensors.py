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

from pathlib import Path
from typing import Any

import torch

from bridle.checkpoint import load_model, save_model, snapshot
from bridle.errors import NumericalError
from bridle.export.describe import describe, library_readme
from bridle.export.folder import check_output, names_of, new_folder
from bridle.model import Bridle
from bridle.patches.cut import coordinates
from bridle.schema import PatchBatch

TOLERANCE = 1e-5  # features after reloading; on one machine they are equal to the bit


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
    check_output(out, overwrite=overwrite)  # before anything is loaded
    model = load_model(run).eval()
    with new_folder(out, overwrite=overwrite) as folder:
        save_model(snapshot(model), folder)
        describe(model, folder, library_readme(model, out.name))
        parity = compare(model, load_model(folder).eval())
        if parity["features"] > TOLERANCE or parity["codes"] is False:
            raise NumericalError(f"the exported model differs from {run}: {parity}", "nothing was written")
    return {"format": "safetensors", "out": str(out), "files": names_of(out), "parity": parity}


@torch.inference_mode()
def compare(model: Bridle, other: Bridle) -> dict[str, Any]:
    """Features and codes of two models on the same patches."""
    batch = noise(model)
    difference = float((model.features(batch) - other.features(batch)).abs().max())
    if model.config != other.config or model.statistics != other.statistics:
        difference = float("inf")  # other preprocessing is another model
    codes = bool((model.tokenize(batch) == other.tokenize(batch)).all()) if model.ready and other.ready else None
    if model.ready != other.ready:
        codes = False
    return {"features": difference, "codes": codes}


def noise(model: Bridle) -> PatchBatch:
    """Two full clips of noise, one of them half padding."""
    patcher = model.patcher
    coords_N3 = coordinates(patcher.grid)
    x_BNP = torch.randn(2, len(coords_N3), patcher.values, generator=torch.Generator().manual_seed(0))
    valid_BN = torch.ones(x_BNP.shape[:2], dtype=torch.bool)
    valid_BN[1] = coords_N3[:, 0] <= patcher.grid[0] // 2
    lengths = valid_BN.sum(1).tolist()
    return PatchBatch(x_BNP * valid_BN[..., None], coords_N3.expand(2, -1, -1), valid_BN, lengths, patcher.grid)
