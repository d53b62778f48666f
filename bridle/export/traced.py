"""A run -> a folder with its encoder and tokenizer as programs that need none of this library.

    OUT/encoder.onnx | .pt2     patches, coords, valid -> features, class_token, mean (, logits)
    OUT/tokenizer.onnx | .pt2   patches, coords, valid -> codes
    OUT/preprocess.py           media -> patches, coords, valid, with NumPy alone
    OUT/preprocessing.json      its settings
    OUT/classes.json            names of the classes that logits are of, where a classifier was fine-tuned
    OUT/config.yaml             the recipe
    OUT/README.md               how to run it

Every file is run on real clips before the folder takes its place; a failed export leaves nothing behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridle.export import onnx, torch_export
from bridle.export.describe import add_classes, add_preprocessing, describe, program_readme
from bridle.export.folder import check_output, names_of, new_folder
from bridle.export.parity import TOLERANCES, check, material
from bridle.export.programs import example_of, program_of
from bridle.export.subject import open_subject
from bridle.storage import Location

WRITERS: dict[str, Any] = {"onnx": onnx, "torch-export": torch_export}


def export_programs(
    run: Path,
    out: Path,
    *,
    format: str,
    part: str,
    dtype: str,
    opset: int | None,
    data: Location | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Writes the newest checkpoint of `run` to the folder `out` and checks what it computes.

    Args:
        part: "encoder", "tokenizer" or "both".
        dtype: of the encoder; the tokenizer stays float32, for anything less picks other codes.
        opset: of ONNX.
        data: clips to check on; None: of the shards of the run, if they are there, else noise.

    Returns:
        `{format, out, files, parity}`, see `parity.check`.

    Raises:
        UsageError: `out` exists, or the tokenizer is asked for and was never fitted.
        DataError: `run` holds no complete checkpoint, or `data` no clip that can be read.
        NumericalError: the programs do not compute what the model does.
        EnvironmentFault: a library is missing; the disk is full or cannot be written.
    """
    check_output(out, overwrite=overwrite)  # before anything is loaded
    if format == "onnx":
        onnx.check_opset(opset)
        onnx.check_extras()
    subject = open_subject(run)
    model, head, parts = subject.model, subject.head, subject.parts(part)
    compared = material(subject, data)
    writer = WRITERS[format]
    with new_folder(out, overwrite=overwrite) as folder:
        files, code = {}, {}
        for name in parts:
            program = program_of(model, name, dtype=dtype, classifier=subject.classifier)
            files[name] = folder / f"{name}.{writer.SUFFIX}"
            code[name] = writer.code_of(name, program.outputs)
            _write(program, example_of(model), files[name], format, dtype if name == "encoder" else "fp32", opset)
        describe(model, folder, program_readme(model, head, out.name, subject.unfinished(), code, writer.IMPORTS))
        add_preprocessing(model.modality, folder)
        if head and "encoder" in parts:
            add_classes(head, folder)
        programs = {name: writer.opened(path) for name, path in files.items()}
        parity = check(subject, programs, compared, TOLERANCES[dtype])
    return {"format": format, "out": str(out), "files": names_of(out), "parity": parity}


def _write(program: Any, example: Any, path: Path, format: str, dtype: str, opset: int | None) -> None:
    if format == "onnx":
        onnx.write(program, example, path, opset=opset, dtype=dtype)
    else:
        torch_export.write(program, example, path)
