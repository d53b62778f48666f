"""Load and export models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from bridle.api.options import Export, takes
from bridle.api.results import ExportResult
from bridle.api.session import RUNS, pick_device
from bridle.errors import UsageError
from bridle.storage import Remote, locate

if TYPE_CHECKING:
    from bridle.infer import Pretrained
    from bridle.model import Bridle


def load(
    checkpoint: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    batch_size: int = 32,
    workers: int = 0,
) -> Pretrained:
    """Load a trained model for use on paths and arrays: `load("runs/voices").embed("clip.wav")`.

    Args:
        checkpoint: a run, checkpoint or export; `None`: the newest run below `runs/`.
        device: "auto", "cpu", "cuda" or, for example, "cuda:1".
        dtype: in which features are computed; they are returned as float32. Codes are always computed in float32.
        batch_size: windows per forward pass.
        workers: decoding threads.

    Raises:
        UsageError: an unknown dtype or invalid batch size.
        DataError: the checkpoint is missing or damaged.
        EnvironmentFault: no such device.
    """
    import torch

    from bridle.infer import Pretrained

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise UsageError(f"unknown dtype {dtype}", f"Choose from {', '.join(dtypes)}.")
    if not isinstance(batch_size, int) or not isinstance(workers, int) or batch_size < 1 or workers < 0:
        raise UsageError(f"batch_size {batch_size}, workers {workers}: expected integers of at least 1 and 0")
    if not isinstance(checkpoint, str | os.PathLike | None) or checkpoint == "":
        raise UsageError(f"checkpoint {checkpoint!r} is not a path", "Name a run, a checkpoint or an export.")
    checkpoint = None if checkpoint is None else os.fsdecode(checkpoint)
    return Pretrained(open_model(checkpoint, device), dtypes[dtype], batch_size, workers)


@takes(Export)
def export(run: str | Path, chosen: Export) -> ExportResult:
    """Export a model, and check that the export gives the same results; see `bridle.export`."""
    from bridle.export import export as write

    result = write(
        Path(run),
        format=chosen.format,
        out=Path(chosen.out),
        part=chosen.part,
        dtype=chosen.dtype,
        opset=chosen.opset,
        data=None if chosen.data is None else locate(chosen.data),
        overwrite=chosen.overwrite,
    )
    return cast(ExportResult, result)


def open_model(checkpoint: str | Path | None, device: str) -> Bridle:
    """The network of a checkpoint; `None` takes the newest run.

    Raises:
        UsageError: it is in object storage. DataError: there is no usable model.
    """
    from bridle.checkpoint import load_model, newest_run

    if checkpoint is not None and isinstance(locate(checkpoint), Remote):
        raise UsageError(
            f"{checkpoint} is remote; a checkpoint must be on a local disk", "Copy it to this machine first."
        )

    return load_model(newest_run(RUNS) if checkpoint is None else Path(checkpoint), device=pick_device(device))
