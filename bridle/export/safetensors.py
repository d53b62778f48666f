"""A run -> a folder of plain files that loads back in three lines of Python.

    OUT/model.safetensors    weights
    OUT/model.json           configuration and corpus statistics, read by `bridle.load`
    OUT/head.safetensors     the layer on top, where a classifier was fine-tuned
    OUT/config.yaml          the same configuration, for people and `bridle pretrain --config`
    OUT/preprocessing.json   how media become patches, for other programs
    OUT/README.md            how to load it

Written beside its place, loaded back, compared, and only then renamed: a failed export leaves nothing behind. With
`--dtype` fp16 or bf16 the encoder's matrices are kept so in the file, and become float32 again as they are loaded.

Shapes: B clips, N patches, P values a patch.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridle.checkpoint import Head, load_model, read_classifier, save_model, snapshot
from bridle.checkpoint.classifier_file import HEAD
from bridle.checkpoint.model_file import Snapshot
from bridle.errors import DataError
from bridle.export.describe import describe, library_readme
from bridle.export.folder import check_output, names_of, new_folder
from bridle.export.parity import differs, distance, noise
from bridle.export.programs import STORED
from bridle.export.subject import Subject, open_subject
from bridle.model import Bridle

# Features and logits after reloading. In fp32 they are equal to the bit on one machine; bf16 keeps three digits.
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-2, "bf16": 0.5}


def export_safetensors(
    run: Path,
    out: Path,
    *,
    dtype: str = "fp32",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the newest checkpoint of `run` to the folder `out` and check that it loads back equal.

    Args:
        dtype: that the encoder's matrices are kept in; the tokenizer stays float32.

    Returns:
        `{format, out, files, parity: {features, codes, logits}}`: the largest absolute difference of features, whether
        all codes are equal (None for a model without codes), and the largest difference of a classifier's logits.

    Raises:
        UsageError: `out` exists.
        DataError: `run` holds no complete checkpoint.
        NumericalError: the reloaded model differs.
        EnvironmentFault: the disk is full or cannot be written.
    """
    check_output(out, overwrite=overwrite)  # before anything is loaded
    subject = open_subject(run)
    model = subject.model
    with new_folder(out, overwrite=overwrite) as folder:
        _save(subject, folder, dtype)
        describe(model, folder, library_readme(model, subject.head, out.name, subject.unfinished()))
        try:
            loaded, head = read_classifier(folder) if subject.head else (load_model(folder), None)
        except DataError as error:  # weights beyond the largest number of a smaller dtype
            raise differs(f"the exported model differs from {run}: {error.message}", dtype == "fp32") from error
        parity = compare(model, loaded.eval(), subject.head, head)
        most = TOLERANCES[dtype]
        if parity["features"] > most or parity["codes"] is False or (parity["logits"] or 0) > 10 * most:
            raise differs(f"the exported model differs from {run}: {parity}", dtype == "fp32")
    return {"format": "safetensors", "out": str(out), "files": names_of(out), "parity": parity}


def _save(subject: Subject, folder: Path, dtype: str) -> None:
    taken = snapshot(subject.model)
    if dtype in STORED:
        taken = Snapshot(
            {name: _kept(name, value, STORED[dtype]) for name, value in taken.weights.items()}, taken.about
        )
    if subject.head:
        shutil.copyfile(Path(str(subject.model.source)) / HEAD, folder / HEAD)
        save_model(
            taken, folder, {key: subject.about[key] for key in ("classifier", "finetuned") if key in subject.about}
        )
    else:
        save_model(taken, folder)


def _kept(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.ndim > 1 and name.startswith(("encoder.", "average.")) else value


@torch.inference_mode()
def compare(model: Bridle, other: Bridle, head: Head | None = None, other_head: Head | None = None) -> dict[str, Any]:
    """Features, codes and logits of two models on the same patches."""
    batch = noise(model)
    difference = distance(model.features(batch), other.features(batch))
    if model.config != other.config or model.statistics != other.statistics:
        difference = float("inf")  # other preprocessing is another model
    codes = bool((model.tokenize(batch) == other.tokenize(batch)).all()) if model.ready and other.ready else None
    if model.ready != other.ready:
        codes = False
    logits = None
    if head and other_head:
        logits = distance(head.classifier(batch), other_head.classifier(batch))
        if (head.classes, head.multi_label) != (other_head.classes, other_head.multi_label):
            logits = float("inf")
    return {"features": difference, "codes": codes, "logits": logits}
