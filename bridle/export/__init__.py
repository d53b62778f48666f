"""A run becomes files that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridle.errors import UsageError, nearest
from bridle.export.safetensors import export_safetensors

FORMATS = ("safetensors",)


def export(run: Path, *, format: str = "safetensors", out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a run, checkpoint or export in another format; see the module of that format."""
    if format not in FORMATS:
        raise UsageError(f"--format {format} is not known", nearest(format, FORMATS))
    return export_safetensors(run, out, overwrite=overwrite)


__all__ = ["FORMATS", "export"]
