"""The model of a checkpoint: load it, export it."""

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
    """A model that takes paths, arrays and lists of them: `load("runs/voices").embed("clip.wav")`.

    Args:
        checkpoint: a run, checkpoint or export; `None`: the newest run below `runs/`.
        device: "auto", "cpu", "cuda" or one of several, as "cuda:1".
        dtype: what features are computed in; they are float32 when they come out, and codes always are computed in it.
        batch_size: windows that the model sees at once.
        workers: threads that decode ahead.

    Raises:
        UsageError: an unknown dtype, or a batch of nothing.
        DataError: no run, or none that can be read.
        EnvironmentFault: no such device.
    """
    import torch

    from bridle.infer import Pretrained

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise UsageError(f"dtype {dtype} is not known", f"choose from {', '.join(dtypes)}")
    if not isinstance(batch_size, int) or not isinstance(workers, int) or batch_size < 1 or workers < 0:
        raise UsageError(f"batch_size {batch_size}, workers {workers}: whole numbers from 1 and 0 are needed")
    if not isinstance(checkpoint, str | os.PathLike | None) or checkpoint == "":
        raise UsageError(f"checkpoint {checkpoint!r} is no path", "name a run, a checkpoint or an export")
    checkpoint = None if checkpoint is None else os.fsdecode(checkpoint)
    return Pretrained(open_model(checkpoint, device), dtypes[dtype], batch_size, workers)


@takes(Export)
def export(run: str | Path, chosen: Export) -> ExportResult:
    """Write a run for others to load, and check that what was written computes the same; see `bridle.export`."""
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
        raise UsageError(f"{checkpoint}: a checkpoint must lie on a disk of this machine", "Copy it there first.")

    return load_model(newest_run(RUNS) if checkpoint is None else Path(checkpoint), device=pick_device(device))
