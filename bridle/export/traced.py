"""A run -> a folder with its encoder and tokenizer as programs that need none of this library.

    OUT/encoder.onnx | .pt2     patches, coords, valid -> features, class_token, mean
    OUT/tokenizer.onnx | .pt2   patches, coords, valid -> codes
    OUT/preprocess.py           media -> patches, coords, valid, with NumPy alone
    OUT/preprocessing.json      its settings
    OUT/config.yaml             the recipe
    OUT/README.md               how to run it

Every file is run on real clips before the folder takes its place; a failed export leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridle.checkpoint import load_model
from bridle.errors import UsageError
from bridle.export import onnx, torch_export
from bridle.export.describe import add_preprocessing, describe, program_readme
from bridle.export.folder import check_output, names_of, new_folder
from bridle.export.parity import check, material
from bridle.export.programs import PARTS, example_of, program_of
from bridle.model import Bridle
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
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Writes the newest checkpoint of `run` to the folder `out` and checks what it computes.

    Args:
        part: "encoder", "tokenizer" or "both".
        dtype: of the encoder; the tokenizer stays float32, for anything less picks other codes.
        opset: of ONNX.
        data: clips to check on; None: of the shards of the run, if they are there, else noise.
        tell: told what the user should know.

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
    model = load_model(run).eval().requires_grad_(False)
    parts = PARTS if part == "both" else (part,)
    if "tokenizer" in parts and not model.ready:
        raise UsageError(
            f"{run} has no codes: its codebooks were never fitted", "add --part encoder, or train on: bridle pretrain"
        )
    compared = material(model, data, tell)
    writer = WRITERS[format]
    with new_folder(out, overwrite=overwrite) as folder:
        describe(model, folder, program_readme(model, out.name, parts, writer.CODE, writer.IMPORTS))
        add_preprocessing(folder)
        files = {name: folder / f"{name}.{writer.SUFFIX}" for name in parts}
        for name, path in files.items():
            _write(model, name, path, format, dtype, opset)
        parity = check(model, {name: writer.opened(path) for name, path in files.items()}, compared, dtype)
    return {"format": format, "out": str(out), "files": names_of(out), "parity": parity}


def _write(model: Bridle, part: str, path: Path, format: str, dtype: str, opset: int | None) -> None:
    kind = dtype if part == "encoder" else "fp32"
    program, example = program_of(model, part, half=kind == "fp16"), example_of(model)
    if format == "onnx":
        onnx.write(program, part, example, path, opset=opset, half=kind == "fp16", int8=kind == "int8")
    else:
        torch_export.write(program, example, path)
