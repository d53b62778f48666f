"""Tokenize files with a checkpoint, load one, and export one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bridle import progress
from bridle.api.options import Export, Tokenize, WriteCodes, takes
from bridle.api.session import open_model, pick_device
from bridle.errors import UsageError
from bridle.storage import locate

if TYPE_CHECKING:
    from bridle.infer import Pretrained
    from bridle.schema import Codes


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


def tokenize(
    inputs: Sequence[str | Path], *, on_event: progress.Listener | None = None, **options: Any
) -> Iterator[dict[str, Any]]:
    """Iterate over the codes of files, folders and sets of shards: one `{file, levels, grid, codes, times}` per file.

    `codes` are nested lists by level, time, row and column (see `grid`); `times` are the starts of the time steps in
    seconds.

    Args:
        options: see `bridle.api.options.Tokenize`.
    """
    from bridle.infer import tokenize_inputs

    chosen = Tokenize(**options)
    model = open_model(chosen.checkpoint, chosen.device if chosen.engine == "local" else "cpu")
    places = [locate(item) for item in inputs]
    how: dict[str, Any] = {"levels": chosen.levels, "engine": chosen.engine, "device": chosen.device}
    found = tokenize_inputs(model, places, workers=chosen.workers or 0, **how)
    for codes in progress.each(found, on_event):
        yield {
            "file": codes.file,
            "levels": codes.levels,
            "grid": list(codes.grid),
            "codes": codes.codes_THWQ.movedim(-1, 0).tolist(),
            "times": codes.times_T,
        }


@takes(WriteCodes)
def write_codes(inputs: Sequence[str | Path], out: str | Path, chosen: WriteCodes) -> dict[str, Any]:
    """Write the codes of files, folders and sets of shards to `out`.

    The suffix sets the format: `.codes`, `.parquet`, `.npz` or `.safetensors`; without one, a copy of the shards with
    the codes beside the media (docs/codes.md). `read_codes` reads all formats. The work is done in chunks that are kept
    beside `out`; processes started by `torchrun` share them.

    Returns:
        `{out, files, levels, patches, bytes, skipped, seconds, failures}`; `{}` from processes but the first.
    """
    from bridle import distributed
    from bridle.infer.tokenize import How, check_output, write_tokens

    places, target, local = [locate(item) for item in inputs], locate(out), chosen.engine == "local"
    rules = {"resume": chosen.resume, "overwrite": chosen.overwrite}
    with distributed.group(picked := pick_device(chosen.device if local else "cpu")):
        # Before anything is loaded.
        distributed.first_decides(lambda: check_output(target, places, **rules))
        model = open_model(chosen.checkpoint, picked if local else "cpu")
        how = How(workers=chosen.workers, engine=chosen.engine, device=chosen.device)
        return write_tokens(model, places, target, how, levels=chosen.levels, **rules) or {}


def read_codes(path: str | Path, *, levels: int | None = None) -> list[Codes]:
    """Read the codes of every file from the output of `write_codes`, in order.

    Args:
        levels: read only the first N levels, a valid, coarser tokenization.
    """
    from bridle.formats import read_codes as read

    if "://" in str(path):
        raise UsageError(f"{path} is not on this machine", "Copy it here first.")
    return read(Path(path), levels)


@takes(Export)
def export(run: str | Path, chosen: Export) -> dict[str, Any]:
    """Export a model, and check that the export gives the same results.

    Returns:
        `{format, out, files, parity}`; see `bridle.export`.
    """
    from bridle.export import export as write

    return write(
        Path(run),
        format=chosen.format,
        out=Path(chosen.out),
        part=chosen.part,
        dtype=chosen.dtype,
        opset=chosen.opset,
        data=None if chosen.data is None else locate(chosen.data),
        overwrite=chosen.overwrite,
    )
