"""A run becomes files that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridle.errors import UsageError, nearest
from bridle.export.huggingface import export_huggingface
from bridle.export.safetensors import export_safetensors
from bridle.export.traced import export_programs
from bridle.storage import Location

FORMATS = {  # and what the weights may become there
    "safetensors": ("fp32", "fp16", "bf16"),
    "huggingface": ("fp32", "fp16", "bf16"),
    "onnx": ("fp32", "fp16", "bf16", "int8"),
    "torch-export": ("fp32", "fp16", "bf16"),
}
PARTS = ("encoder", "tokenizer", "both")


def export(
    run: Path,
    *,
    format: str = "safetensors",
    out: Path,
    part: str = "both",
    dtype: str = "fp32",
    opset: int | None = None,
    data: Location | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a run, checkpoint or export in another format; see the module of that format.

    Raises:
        UsageError: the options do not go together; the rest as the format says.
    """
    if format not in FORMATS:
        raise UsageError(f"--format: unknown value '{format}'; {nearest(format, FORMATS)}")
    if part not in PARTS:
        raise UsageError(f"--part: unknown value '{part}'; {nearest(part, PARTS)}")
    if dtype not in FORMATS[format]:
        raise UsageError(f"--format {format} has no --dtype {dtype}", f"Choose from {', '.join(FORMATS[format])}.")
    if opset is not None and format != "onnx":
        raise UsageError(f"--format {format} has no --opset", "Leave it out, or use --format onnx.")
    if dtype != "fp32" and part == "tokenizer":
        raise UsageError(
            f"--part tokenizer --dtype {dtype}: the tokenizer stays fp32, since lower precision changes codes",
            "Leave out --dtype.",
        )
    if format == "safetensors":
        if part != "both" or data is not None:
            raise UsageError("--format safetensors has no --part and no --data", "Leave them out.")
        return export_safetensors(run, out, dtype=dtype, overwrite=overwrite)
    if format == "huggingface":
        if part == "tokenizer":
            raise UsageError(
                "--format huggingface has no --part tokenizer",
                "Leave it out: the encoder includes model.tokenize(...).",
            )
        return export_huggingface(run, out, part=part, dtype=dtype, data=data, overwrite=overwrite)
    return export_programs(run, out, format=format, part=part, dtype=dtype, opset=opset, data=data, overwrite=overwrite)


__all__ = ["FORMATS", "PARTS", "export"]
